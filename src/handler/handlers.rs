//! Sagas that send each other messages within one program, without a broker.

use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx::{Database, Pool};

use super::{HandleMessage, MessageHandler};
use crate::backend::Backend;
use crate::emitter::{Delivery, Emitter, send_each};
use crate::envelope::Envelope;
use crate::error::Result;

/// The sagas of a program, as an [`Emitter`]: a [`Dispatcher`](crate::dispatcher::Dispatcher) with it hands every message
/// of the outbox, events, commands and timeouts, to each saga that handles its type. Other messages are handed to the
/// emitter that was given with [`others_to`](Self::others_to), or else dropped as delivered.
///
/// A message is acknowledged once every saga has dealt with it; if one fails, it is delivered again to all, and those
/// that have handled it recognise it.
pub struct Handlers<DB: Database> {
    pool: Pool<DB>,
    handlers: Vec<Arc<dyn Handler<DB>>>,
    others: Option<Arc<dyn Emitter>>,
}

/// A message handler for whatever saga.
#[async_trait]
trait Handler<DB: Database>: Send + Sync {
    fn knows(&self, message: &Envelope) -> bool;

    async fn deliver(&self, pool: &Pool<DB>, message: &Envelope) -> Result<()>;
}

#[async_trait]
impl<S: HandleMessage + 'static, DB: Backend> Handler<DB> for MessageHandler<S, DB> {
    fn knows(&self, message: &Envelope) -> bool {
        self.handles(message)
    }

    async fn deliver(&self, pool: &Pool<DB>, message: &Envelope) -> Result<()> {
        self.handle(pool, message).await.map(drop)
    }
}

impl<DB: Backend> Handlers<DB> {
    /// No saga yet. They handle messages with connections of this pool.
    pub fn new(pool: Pool<DB>) -> Self {
        Self { pool, handlers: Vec::new(), others: None }
    }

    /// Also this saga.
    #[must_use]
    pub fn with<S: HandleMessage + 'static>(mut self, handler: MessageHandler<S, DB>) -> Self {
        self.handlers.push(Arc::new(handler));
        self
    }

    /// Sends messages that no saga handles, such as commands for other programs, to this emitter.
    #[must_use]
    pub fn others_to(mut self, emitter: impl Emitter + 'static) -> Self {
        self.others = Some(Arc::new(emitter));
        self
    }

    /// Hands a message from elsewhere to every saga that handles its type, also after one has failed.
    ///
    /// # Errors
    /// That of the first saga that fails; the message is then to be delivered again.
    ///
    /// # Panics
    /// If a saga does, other than in [`HandleMessage::handle`], as when its events are applied; once all others have had the
    /// message.
    pub async fn deliver(&self, message: &Envelope) -> Result<()> {
        let (mut delivered, mut panicked) = (Ok(()), None);
        for handler in self.handlers.iter().filter(|handler| handler.knows(message)) {
            match AssertUnwindSafe(handler.deliver(&self.pool, message)).catch_unwind().await {
                Ok(done) => delivered = delivered.and(done),
                Err(panic) => panicked = Some(panic),
            }
        }
        panicked.map_or(delivered, |panic| resume_unwind(panic))
    }

    fn knows(&self, message: &Envelope) -> bool {
        self.handlers.iter().any(|handler| handler.knows(message))
    }
}

impl<DB: Database> fmt::Debug for Handlers<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handlers of {} sagas", self.handlers.len())
    }
}

#[async_trait]
impl<DB: Backend> Emitter for Handlers<DB> {
    async fn emit(&self, batch: Vec<Delivery>) {
        let known = |delivery: &Delivery| self.knows(&delivery.peek().envelope);
        let (ours, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(known);
        let ours = send_each(ours, async |record| self.deliver(&record.envelope).await);
        let others = async {
            match &self.others {
                Some(emitter) => emitter.emit(others).await,
                None => others.into_iter().for_each(Delivery::delivered),
            }
        };
        tokio::join!(ours, others);
    }
}
