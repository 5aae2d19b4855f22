//! A network between clients and their server that cuts connections in the middle of a message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Passes bytes between clients on a port of its own and a server on this machine.
pub(crate) struct Proxy {
    address: SocketAddr,
    cuts: Arc<Cuts>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Cuts {
    wanted: AtomicU32,
    done: AtomicU32,
}

impl Cuts {
    /// Takes one of those that are wanted.
    fn take(&self) -> bool {
        let one_less = |wanted: u32| wanted.checked_sub(1);
        let taken = self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        self.done.fetch_add(taken.into(), Ordering::SeqCst);
        taken
    }
}

impl Proxy {
    pub(crate) async fn start(server_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, cuts) = (listener.local_addr()?, Arc::new(Cuts::default()));
        let shared = Arc::clone(&cuts);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cuts = Arc::clone(&shared);
                // Who is cut off learns it by the end of the connection.
                tokio::spawn(async move { pass(client, server_port, &cuts).await });
            }
        });
        Ok(Self { address, cuts, listening })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next so many messages, of whichever connections, are passed on in part, and their connections cut.
    pub(crate) fn cut(&self, messages: u32) {
        self.cuts.wanted.fetch_add(messages, Ordering::SeqCst);
    }

    /// How many were cut so far.
    pub(crate) fn count(&self) -> u32 {
        self.cuts.done.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass(mut client: TcpStream, server_port: u16, cuts: &Cuts) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
    let (mut request, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let (bytes, to) = tokio::select! {
            read = client.read(&mut request) => (&request[..read?], &mut server),
            read = server.read(&mut answer) => (&answer[..read?], &mut client),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if cuts.take() {
            // From none of it to all of it.
            return to.write_all(&bytes[..fastrand::usize(..=bytes.len())]).await;
        }
        to.write_all(bytes).await?;
    }
}
