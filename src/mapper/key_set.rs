//! Instances that are found by natural keys.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Transaction;
use uuid::Uuid;

use super::{CorrelationKey, Mapped, Mapper, MapperTables};
use crate::backend::Backend;
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::handler::HandleMessage;
use crate::ids::InstanceId;
use crate::saga::Instance;

/// Most keys that one instance can have.
pub const MAX_CORRELATION_KEYS: usize = 100;

/// How often starting an instance by a key looks again for who has it: as often as a holder of the key can vanish
/// between two statements before that is taken for contention.
const MAX_START_TRIES: u32 = 10;

type KeyOf<M> = dyn Fn(&M) -> Result<Option<CorrelationKey>> + Send + Sync;
type KeysOf<D> = dyn Fn(&D) -> Result<Vec<CorrelationKey>> + Send + Sync;

/// Finds instances by natural keys, which a table keeps in step with the instances' states.
///
/// Each instance has a set of keys that follows from its state and may change with every unit of work; no two instances
/// of a saga share one. A message has one key. If an instance has it, the message is for that one; if none has it, a
/// trigger starts an instance under a new id. Of two triggers that come at once, one starts the instance and the other
/// finds it. A unit of work that would give an instance the key of another fails with [`Error::KeyHeld`]. Completed
/// instances give up their keys: a later trigger with the same key starts a new instance.
///
/// A new kind of key, that instances which live already should be found by, is introduced in two steps: let `keys_of`
/// give it (with every message, an instance is from then on also given its new keys), then run
/// [`MessageHandler::refresh_mapping`](crate::MessageHandler::refresh_mapping) once for those that no message reaches
/// meanwhile; only then send messages by it.
pub struct KeySet<S: HandleMessage> {
    key_of: Arc<KeyOf<S::Message>>,
    keys_of: Arc<KeysOf<S::Data>>,
    saga: PhantomData<fn(S)>,
}

impl<S: HandleMessage> KeySet<S> {
    /// `key_of` gives the key of a message, `None` for one that the saga does not care for. `keys_of` gives the keys of
    /// an instance in a state; both must depend on nothing else.
    ///
    /// `keys_of` must give the key by which a trigger started the instance for as long as messages come by it.
    pub fn new(
        key_of: impl Fn(&S::Message) -> Result<Option<CorrelationKey>> + Send + Sync + 'static,
        keys_of: impl Fn(&S::Data) -> Result<Vec<CorrelationKey>> + Send + Sync + 'static,
    ) -> Self {
        Self { key_of: Arc::new(key_of), keys_of: Arc::new(keys_of), saga: PhantomData }
    }

    /// The instance of a saga that has this key.
    ///
    /// # Errors
    /// The database's.
    pub async fn find<DB: Backend>(
        conn: &mut DB::Connection,
        persistence_key: &str,
        key: &CorrelationKey,
    ) -> Result<Option<InstanceId>> {
        DB::Store::default().holder(conn, persistence_key, key).await
    }

    /// The instance of a saga that has this key, or else the id of a new one that now has it: start or load by a natural
    /// key. Of several who ask at once all are given one id, once the first has committed; if it rolls back, the next one
    /// starts the instance.
    ///
    /// # Errors
    /// [`Error::Contention`] if the key changes hands all the time; the database's.
    pub async fn start_or_find<DB: Backend>(
        tx: &mut Transaction<'_, DB>,
        persistence_key: &str,
        key: &CorrelationKey,
    ) -> Result<InstanceId> {
        let store = DB::Store::default();
        for _ in 0..MAX_START_TRIES {
            if let Some(found) = store.holder(tx, persistence_key, key).await? {
                return Ok(found);
            }
            let new = InstanceId::from(Uuid::now_v7());
            if store.claim(tx, persistence_key, key, &new).await? {
                return Ok(new);
            }
        }
        let detail = format!("key {key:?} of saga {persistence_key:?} changed hands {MAX_START_TRIES} times");
        Err(Error::Contention { doing: "starting an instance by its key", source: detail.into() })
    }

    fn keys_of(&self, instance: &Instance<S::Data>) -> Result<BTreeSet<CorrelationKey>> {
        let keys: BTreeSet<_> = (self.keys_of)(&instance.data)?.into_iter().collect();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (size, limit) = (count(keys.len()), count(MAX_CORRELATION_KEYS));
        if size > limit {
            return Err(Error::TooLarge { what: "set of correlation keys of an instance", size, limit });
        }
        Ok(keys)
    }
}

impl<S: HandleMessage> fmt::Debug for KeySet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySet")
    }
}

#[async_trait]
impl<S: HandleMessage, DB: Backend> Mapper<S, DB> for KeySet<S> {
    async fn map(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &S,
        message: &S::Message,
        _: &Envelope,
        trigger: bool,
    ) -> Result<Mapped> {
        let Some(key) = (self.key_of)(message)? else { return Ok(Mapped::Ignored) };
        if trigger {
            return Self::start_or_find(tx, saga.persistence_key(), &key).await.map(Mapped::Instance);
        }
        let found = Self::find::<DB>(tx, saga.persistence_key(), &key).await?;
        Ok(found.map_or(Mapped::NotFound, Mapped::Instance))
    }

    async fn update(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &S,
        instance: &Instance<S::Data>,
        completed: bool,
    ) -> Result<()> {
        let (store, saga, id) = (DB::Store::default(), saga.persistence_key(), &instance.instance_id);
        let wanted = if completed { BTreeSet::new() } else { self.keys_of(instance)? };
        let had = store.keys(tx, saga, id).await?;
        for key in had.difference(&wanted) {
            store.release(tx, saga, key, id).await?;
        }
        for key in wanted.difference(&had) {
            if !store.claim(tx, saga, key, id).await? {
                let (saga, instance) = (saga.to_owned(), id.clone());
                return Err(Error::KeyHeld { saga, instance, key: key.as_str().to_owned() });
            }
        }
        Ok(())
    }
}
