//! What is logged while a clause runs, on its own thread.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Level};

/// Catches the log until it is dropped. Not what a database's worker threads log.
pub(crate) struct Log {
    text: Text,
    _until_dropped: DefaultGuard,
}

impl Log {
    pub(crate) fn catch(level: Level) -> Self {
        // With a single subscriber around, whether it wants an event is asked in the first thread
        // that comes by, which may be another clause's.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let text = Text::default();
        let writer = text.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(move || writer.clone());
        Self { text, _until_dropped: tracing::subscriber::set_default(subscriber.finish()) }
    }

    /// The lines in which all of these texts stand.
    pub(crate) fn lines(&self, texts: &[&str]) -> Vec<String> {
        let log = String::from_utf8(self.text.0.lock().unwrap().clone()).unwrap();
        let has_all = |line: &&str| texts.iter().all(|text| line.contains(text));
        log.lines().filter(has_all).map(str::to_owned).collect()
    }
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
