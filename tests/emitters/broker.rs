//! A broker that can be frozen, killed and started again.

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long a broker may take until it answers; RabbitMQ's start takes seconds.
const REACHABLE_WITHIN: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a greeting may take before another connection is tried.
const GREETED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nats,
    RabbitMq,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Nats, Self::RabbitMq];

    /// As in SAGASTORE_TEST_ONLY.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::RabbitMq => "rabbitmq",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::RabbitMq => "RabbitMQ",
        }
    }

    pub(crate) fn variable(self, what: &str) -> String {
        format!("SAGASTORE_TEST_{}_{what}", self.title().to_uppercase())
    }

    /// What a client says first; NATS speaks first itself.
    fn first_words(self) -> &'static [u8] {
        match self {
            Self::Nats => b"",
            Self::RabbitMq => b"AMQP\0\0\x09\x01",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Broker {
    kind: Kind,
    pub(crate) url: String,
    /// Host and port.
    pub(crate) address: String,
    process: Arc<Mutex<Process>>,
}

#[derive(Debug)]
struct Process {
    id: Option<u32>,
    child: Option<Child>,
}

impl Broker {
    pub(crate) fn of(kind: Kind) -> Option<Self> {
        let url = env::var(kind.variable("URL")).ok()?;
        let address = url.rsplit(['@', '/']).next()?.to_owned();
        let id = env::var(kind.variable("PID")).ok().and_then(|id| id.parse().ok());
        Some(Self { kind, url, address, process: Arc::new(Mutex::new(Process { id, child: None })) })
    }

    /// The same broker behind another port of this machine.
    pub(crate) fn url_by_port(&self, port: u16) -> String {
        self.url.replace(&self.address, &format!("127.0.0.1:{port}"))
    }

    pub(crate) fn wait_until_reachable(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(fault) = self.greet() {
            ensure!(began.elapsed() < REACHABLE_WITHIN, "{} does not answer: {fault}", self.address);
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn greet(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(GREETED_WITHIN))?;
        stream.write_all(self.kind.first_words())?;
        stream.read_exact(&mut [0])
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let variable = self.kind.variable("PID");
        let id = self.process.lock().unwrap().id.with_context(|| format!("{variable} is not set"))?;
        ensure!(Command::new("kill").args([signal, &id.to_string()]).status()?.success(), "kill {signal} {id} failed");
        Ok(())
    }

    /// Stops it where it is until the guard is dropped. The kernel still takes connections for it.
    pub(crate) fn freeze(&self) -> anyhow::Result<Frozen> {
        self.signal("-STOP")?;
        Ok(Frozen(self.clone()))
    }

    /// Lets it have too little memory, so that it takes no more messages, until the guard is dropped.
    pub(crate) fn starve(&self) -> anyhow::Result<Starved> {
        self.set_memory(NEXT_TO_NONE)?;
        Ok(Starved(self.clone()))
    }

    /// As a part of the machine's.
    fn set_memory(&self, part: &str) -> anyhow::Result<()> {
        let variable = self.kind.variable("MEMORY");
        let program = env::var(&variable).with_context(|| format!("{variable} is not set"))?;
        ensure!(Command::new(program).arg(part).status()?.success(), "the memory of {} cannot be set", self.address);
        Ok(())
    }

    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        self.signal("-KILL")?;
        if let Some(mut child) = self.process.lock().unwrap().child.take() {
            child.wait()?;
        }
        let began = Instant::now();
        while TcpStream::connect(&self.address).is_ok() {
            ensure!(began.elapsed() < REACHABLE_WITHIN, "{} was killed and still listens", self.address);
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    pub(crate) fn restart(&self) -> anyhow::Result<()> {
        let variable = self.kind.variable("RESTART");
        let program = env::var(&variable).with_context(|| format!("{variable} is not set"))?;
        let child = Command::new(program).spawn()?;
        *self.process.lock().unwrap() = Process { id: Some(child.id()), child: Some(child) };
        self.wait_until_reachable()
    }
}

const NEXT_TO_NONE: &str = "0.000001";
/// RabbitMQ's default.
const ENOUGH: &str = "0.4";

/// A broker that has too little memory.
pub(crate) struct Starved(Broker);

impl Drop for Starved {
    fn drop(&mut self) {
        self.0.set_memory(ENOUGH).unwrap();
    }
}

/// A broker that does nothing.
pub(crate) struct Frozen(Broker);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.signal("-CONT").unwrap();
    }
}
