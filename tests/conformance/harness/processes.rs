//! Clients of leases that are processes of their own, and can be stopped and killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::lock::{DatabaseLock, Lock};
use sagastore::{Error, Executed, Persister};

use super::leases::{client, resource};
use super::mode::Kind;
use super::sample::{Counter, added, instance};
use super::{LeaseClient, Subject, TestDb};

/// Makes this program such a client: its database's kind, the database's address, its name, and what to do.
const VARIABLE: &str = "SAGASTORE_TEST_LEASE_CLIENT";

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// Round after round, until it is killed.
    Rounds,
    /// Obtains one lease, says so, and on each further line writes under it, fenced and unfenced.
    Zombie,
    /// Commits units of work of many callers together, and says which are answered. SQLite only.
    Counting,
}

/// A running client. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start<DB: Subject>(db: &TestDb<DB>, name: &str, part: Part) -> anyhow::Result<Self> {
        let role = [DB::KIND.name(), &DB::address(db.home()), name, &format!("{part:?}")].join("\n");
        let mut child = Command::new(std::env::current_exe()?)
            .env(VARIABLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, stdin, stdout })
    }

    /// Sends a signal: STOP, CONT, …
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status()?;
        ensure!(sent.success(), "kill -{signal}: {sent}");
        Ok(())
    }

    /// Sends a line, and does not wait.
    pub(crate) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    /// The next line that the client says.
    pub(crate) fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(tokio::task::block_in_place(|| self.stdout.read_line(&mut line))? > 0, "the client has ended");
        Ok(line.trim_end().to_owned())
    }

    /// Whether it ended by itself, which none should.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; a stopped one is killed, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a client, if this process was started as one.
pub(crate) fn play_lease_client() -> Option<ExitCode> {
    let role = std::env::var(VARIABLE).ok()?;
    let [kind, address, name, part] = role.split('\n').collect::<Vec<_>>()[..] else { return Some(ExitCode::FAILURE) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let played = runtime.block_on(async {
        match kind {
            kind if kind == Kind::Sqlite.name() && part == "Counting" => count(address).await,
            kind if kind == Kind::Sqlite.name() => play::<sqlx::Sqlite>(address, name, part).await,
            #[cfg(feature = "postgres")]
            kind if kind == Kind::Postgres.name() => play::<sqlx::Postgres>(address, name, part).await,
            #[cfg(feature = "mysql")]
            kind if kind == Kind::Mysql.name() => play::<sqlx::MySql>(address, name, part).await,
            kind => anyhow::bail!("no such database: {kind:?}"),
        }
    });
    if let Err(fault) = played {
        eprintln!("the client {name:?}: {fault:?}");
        return Some(ExitCode::FAILURE);
    }
    Some(ExitCode::SUCCESS)
}

async fn play<DB: Subject>(address: &str, name: &str, part: &str) -> anyhow::Result<()> {
    let pool = DB::connect(&DB::at_address(address)?, 2).await?;
    if part == "Zombie" {
        return play_zombie::<DB>(pool, name).await;
    }
    let client = LeaseClient::<DB>::new(pool, name);
    loop {
        client.round().await?;
    }
}

/// Goes on until it is killed.
async fn count(address: &str) -> anyhow::Result<()> {
    const CALLERS: usize = 16;
    let pool = sqlx::Sqlite::connect(&sqlx::Sqlite::at_address(address)?, 4).await?;
    let persister = Persister::<sqlx::Sqlite>::new().with_group_commit(&pool);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (pool, persister, id) = (pool.clone(), persister.clone(), instance(&caller.to_string()));
        callers.spawn(async move {
            loop {
                let done = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)));
                match done.await {
                    Ok(Executed::Done { saved, .. }) => println!("{caller} {}", saved.revision()),
                    Ok(Executed::AlreadyHandled(_)) => {}
                    Err(error) => return error,
                }
            }
        });
    }
    Err(callers.join_next().await.context("no callers")?.map_or_else(Into::into, Into::into))
}

/// The length of a zombie's lease.
pub(crate) const ZOMBIE_LEASE: Duration = Duration::from_millis(500);

async fn play_zombie<DB: Subject>(pool: sqlx::Pool<DB>, name: &str) -> anyhow::Result<()> {
    let lock = DatabaseLock::new(pool.clone()).with_length(ZOMBIE_LEASE)?;
    let lease = lock.obtain_no_wait(&resource("r"), &client(name)).await?.lease().context("it is held")?;
    println!("holds {}", lease.sequence);
    // With the lease in hand, and no reason to doubt it but time.
    while let Some(number) = std::io::stdin().lines().next() {
        let number = number?;
        let mut tx = Persister::<DB>::new().begin(&pool).await?;
        let write = format!("INSERT INTO own_table (n) VALUES ({number})");
        match lease.fence(&mut tx).await {
            Ok(()) => {
                DB::execute(&mut tx, write).await?;
                tx.commit().await?;
                println!("written");
            }
            Err(Error::Fenced { token, .. }) => {
                tx.rollback().await?;
                // The same write without a fence.
                DB::execute(&mut *pool.acquire().await?, write).await?;
                println!("fenced {token}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
