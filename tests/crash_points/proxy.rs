//! Between a process and its server: counts the requests, and stops at one of them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::point::{Place, Point, Side};
use super::wire::{Protocol, Request, Wire};

const BUFFER: usize = 1 << 16;

/// Passes on what a process and its server say to each other.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Dropped with it: all connections are cut.
    _tasks: JoinSet<()>,
}

struct Shared {
    stop: Option<Point>,
    requests: Mutex<Vec<Request>>,
    reached: Notify,
}

impl Proxy {
    pub(crate) async fn start(protocol: Protocol, server: (String, u16), stop: Option<Point>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, mut tasks) = (listener.local_addr()?.port(), JoinSet::new());
        let shared = Arc::new(Shared { stop, requests: Mutex::default(), reached: Notify::new() });
        let others = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (shared, server) = (Arc::clone(&others), server.clone());
                connections.spawn(async move {
                    // Who is cut off learns it by the end of the connection.
                    let _ = pass(client, server, protocol.wire(), &shared).await;
                });
            }
        });
        Ok(Self { port, shared, _tasks: tasks })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns once the point is reached: nothing more is passed on.
    pub(crate) async fn reached(&self) {
        self.shared.reached.notified().await;
    }

    /// What was asked, up to and with the request at the point.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Shared {
    /// Counts a request; says on which side of it to stop, if at all.
    fn count(&self, request: Request) -> Option<Side> {
        let mut requests = self.requests.lock().unwrap();
        requests.push(request);
        let number = u32::try_from(requests.len()).unwrap();
        self.stop.filter(|stop| stop.place == Place::Statement(number)).map(|stop| stop.side)
    }

    async fn stop(&self) -> ! {
        self.reached.notify_one();
        match std::future::pending::<Infallible>().await {}
    }
}

async fn pass(
    mut client: TcpStream,
    server: (String, u16),
    mut wire: Box<dyn Wire>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut request, mut answer) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                for piece in wire.sent(&request[..read]) {
                    let side = piece.request.clone().and_then(|request| shared.count(request));
                    if side == Some(Side::Before) {
                        shared.stop().await;
                    }
                    wire.passed_on(&piece);
                    server.write_all(&piece.bytes).await?;
                    if side == Some(Side::After) {
                        swallow_answer(&mut server, wire.as_mut()).await?;
                        shared.stop().await;
                    }
                }
            }
            read = server.read(&mut answer) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                wire.answered(&answer[..read]);
                client.write_all(&answer[..read]).await?;
            }
        }
    }
}

/// The server has done what it was asked, and nobody is told.
async fn swallow_answer(server: &mut TcpStream, wire: &mut dyn Wire) -> std::io::Result<()> {
    let mut answer = vec![0; BUFFER];
    while !wire.is_answered() {
        match server.read(&mut answer).await? {
            0 => return Ok(()),
            read => wire.answered(&answer[..read]),
        }
    }
    Ok(())
}
