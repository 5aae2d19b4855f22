//! A connection to a broker that can lose the broker's answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long what a client sends is still passed on once answers are held back; a message may come in pieces.
const LAST_WORDS: Duration = Duration::from_millis(300);
const BUFFER_BYTES: usize = 64 * 1024;

/// Passes everything on, until it is told to cut.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    cut_next: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) async fn to(address: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, address, cut_next) = (listener.local_addr()?.port(), address.to_owned(), Arc::default());
        let cut = Arc::clone(&cut_next);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, address.clone(), Arc::clone(&cut)));
            }
        });
        Ok(Self { port, cut_next })
    }

    /// The next that a client sends goes through; the answer does not, and the connection is closed.
    pub(crate) fn cut_after_next_message(&self) {
        self.cut_next.store(true, Ordering::SeqCst);
    }

    /// Has it been cut?
    pub(crate) fn was_cut(&self) -> bool {
        !self.cut_next.load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, address: String, cut: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut broker = TcpStream::connect(address).await?;
    let (mut from_client, mut from_broker) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                broker.write_all(&from_client[..read]).await?;
                if cut.load(Ordering::SeqCst) {
                    let rest = tokio::io::copy(&mut client, &mut broker);
                    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
                    cut.store(false, Ordering::SeqCst);
                    return Ok(());
                }
            }
            read = broker.read(&mut from_broker) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                client.write_all(&from_broker[..read]).await?;
            }
        }
    }
}
