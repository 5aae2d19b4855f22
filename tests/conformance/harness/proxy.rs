//! A network between a client and its server that can fail at will.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

/// For how long the server may go on with what it was asked before the connection is cut.
const SERVER_ENDS_WITHIN: Duration = Duration::from_millis(100);

/// Passes bytes between clients on a port of its own and a server on this machine.
pub(crate) struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    frozen: AtomicBool,
    /// What requests are counted, and how many of them until the answer to one is swallowed.
    marker: Mutex<Vec<u8>>,
    left: AtomicU32,
    connections: Mutex<Vec<AbortHandle>>,
}

impl Proxy {
    pub(crate) async fn start(server_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, faults) = (listener.local_addr()?, Arc::new(Faults::default()));
        let shared = Arc::clone(&faults);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = Arc::clone(&shared);
                let passing = tokio::spawn(async move {
                    // Who is cut off learns it by the end of the connection.
                    let _ = pass(client, server_port, &faults).await;
                });
                shared.connections.lock().unwrap().push(passing.abort_handle());
            }
        });
        Ok(Self { address, faults, listening })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From here on nothing is passed on, and nothing is cut.
    pub(crate) fn freeze(&self) {
        self.faults.frozen.store(true, Ordering::SeqCst);
    }

    /// Cuts the connection after the server did what the `nth` request with these bytes says, before its answer.
    pub(crate) fn swallow_answer(&self, marker: &str, nth: u32) {
        *self.faults.marker.lock().unwrap() = marker.as_bytes().to_vec();
        self.faults.left.store(nth, Ordering::SeqCst);
    }

    /// Whether such an answer is still to come.
    pub(crate) fn is_waiting(&self) -> bool {
        self.faults.left.load(Ordering::SeqCst) > 0
    }

    /// Ends all connections, and takes no more.
    pub(crate) fn cut(&self) {
        self.listening.abort();
        for connection in self.faults.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn pass(mut client: TcpStream, server_port: u16, faults: &Faults) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    let (mut request, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut swallow = false;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                while faults.frozen.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                swallow |= faults.is_last(&request[..read]);
                server.write_all(&request[..read]).await?;
            }
            read = server.read(&mut answer) => {
                let read = read?;
                if swallow {
                    tokio::time::sleep(SERVER_ENDS_WITHIN).await;
                    return Ok(());
                }
                if read == 0 {
                    return Ok(());
                }
                client.write_all(&answer[..read]).await?;
            }
        }
    }
}

impl Faults {
    /// Counts a request, and says whether its answer is the one to swallow.
    fn is_last(&self, request: &[u8]) -> bool {
        let marker = self.marker.lock().unwrap();
        let marked = !marker.is_empty() && request.windows(marker.len()).any(|bytes| bytes == marker.as_slice());
        let count = |left: u32| left.checked_sub(1);
        marked && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1)
    }
}
