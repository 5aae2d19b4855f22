use eventastic::aggregate::SideEffect;
use eventastic_postgres::{NoEncryptionError, Pickle, SideEffectDbError, SideEffectStorage};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

/// Counters have none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoSideEffect {
    id: Uuid,
}

impl SideEffect for NoSideEffect {
    type SideEffectId = Uuid;

    fn id(&self) -> &Uuid {
        &self.id
    }
}

#[derive(Clone)]
pub(crate) struct Nowhere;

#[async_trait::async_trait]
impl SideEffectStorage<NoEncryptionError, NoSideEffect> for Nowhere {
    async fn store_side_effects(
        &self,
        _: &mut Transaction<'_, Postgres>,
        none: Vec<NoSideEffect>,
    ) -> Result<(), SideEffectDbError<NoEncryptionError, <NoSideEffect as Pickle>::Error>> {
        assert!(none.is_empty(), "counters have no side effects");
        Ok(())
    }
}
