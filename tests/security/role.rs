//! A role with the rights that the manual gives it, and no others.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::testkit::conformance;
use sagastore::{Error, Migrated, OutboxRepository, Persister, check_schema, drop_schema, migrate};
use sqlx::Pool;

use crate::command::{fine, run};
use crate::fill::{complete, note, record};
use crate::login::{Server, as_role};
use crate::parking::park;
use crate::site::Place;
use crate::{locks, town};

const PASSWORD: &str = "n0t.the.owner";

/// A migrated database, and a role for the program alone.
struct Shop<DB: Server> {
    place: Place,
    owner: Pool<DB>,
    role: String,
    /// What the role is in.
    url: String,
    pool: Pool<DB>,
}

/// The rights of the manual, for this database and role.
fn rights<DB: Server>(database: &str, role: &str) -> anyhow::Result<String> {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/docs/operations.md"))?;
    let (_, block) = manual.split_once(&format!("```sql\n{}", DB::RIGHTS)).context("the manual has no such block")?;
    let (_, block) = block.split_once('\n').context("the block has one line")?;
    let (block, _) = block.split_once("\n```").context("the block has no end")?;
    Ok(block.replace("shop_app", role).replace("shop.", &format!("{database}.")))
}

impl<DB: Server> Shop<DB> {
    async fn open() -> anyhow::Result<Self> {
        let place = DB::create().await?;
        let owner = DB::connect(&place).await?;
        ensure!(matches!(migrate(&owner).await?, Migrated::Applied { .. }));
        let role = format!("app_{}", place.name.trim_start_matches("sagas_"));
        DB::execute(&owner, &DB::make_role(&role, PASSWORD)).await?;
        DB::execute(&owner, &rights::<DB>(&place.name, &role)?).await?;
        let url = as_role(&place.url, &role, PASSWORD);
        let pool = Pool::connect(&url).await?;
        Ok(Self { place, owner, role, url, pool })
    }

    async fn close(self) -> anyhow::Result<()> {
        self.pool.close().await;
        self.owner.close().await;
        let (kept, name) = (DB::create().await?, DB::drop_role(&self.role));
        let server = DB::connect(&kept).await?;
        DB::remove(self.place).await?;
        DB::execute(&server, &name).await?;
        server.close().await;
        DB::remove(kept).await
    }
}

pub(crate) async fn runs_everything<DB: Server>() -> anyhow::Result<()> {
    let shop = Shop::<DB>::open().await?;
    let (pool, url) = (&shop.pool, shop.url.as_str());
    ensure!(matches!(migrate(pool).await?, Migrated::NothingToDo { .. }), "there was something to migrate");
    check_schema(pool).await?;
    town::run(pool).await?;
    locks::obtain_and_release(pool).await?;
    note(pool, "1", "a").await?;
    complete(pool, "1").await?;
    record(pool).await?;
    dead_letter(pool).await?;
    park(pool, "2", "the pen is dry").await?;

    let file = shop.place.file("export");
    for verb in [
        &["migrate"][..],
        &["check"],
        &["instances"],
        &["show", "diary/1"],
        &["parked"],
        &["outbox"],
        &["outbox", "dead-letters", "list"],
        &["locks"],
        &["export", &file],
        &["outbox", "dead-letters", "retry", "--all", "--yes"],
    ] {
        fine(url, verb)?;
    }
    for parked in fine(url, &["parked", "--json"])?.objects() {
        fine(url, &["parked", "discard", "--id", &parked["id"].to_string(), "--yes"])?;
    }
    dead_letter(pool).await?;
    edit_dead_letter(pool).await?;
    dead_letter(pool).await?;
    fine(url, &["outbox", "dead-letters", "discard", "--all", "--yes"])?;
    DB::only_here(pool, url).await?;
    let other = Shop::<DB>::open().await?;
    ensure!(fine(&other.url, &["import", &file])?.out.contains("imported"));
    fine(&other.url, &["check"])?;
    other.close().await?;
    shop.close().await
}

/// Makes one, and a delivery that is tried again.
async fn dead_letter<DB: Server>(pool: &Pool<DB>) -> anyhow::Result<()> {
    use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
    use sagastore::emitter::emitter_fn;

    let emitter = emitter_fn(|_: sagastore::OutboxRecord| async { Err::<(), _>(std::io::Error::other("closed")) });
    let once = DispatcherSettings::default().with_retry(DeliveryRetry::new(1, 0, Duration::ZERO, Duration::ZERO, 0.0)?);
    let dispatcher = Dispatcher::new(pool.clone(), emitter).with_settings(once);
    while dispatcher.dispatch_once().await?.dead == 0 {}
    let dead = DB::Store::default().dead_letters(&mut *pool.acquire().await?, None, 10).await?;
    ensure!(!dead.is_empty(), "no dead letter");
    Ok(())
}

/// Edits one, which is to be delivered again.
async fn edit_dead_letter<DB: Server>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let (store, persister) = (DB::Store::default(), Persister::<DB>::new());
    let mut tx = persister.begin(pool).await?;
    let dead = store.dead_letters(&mut tx, None, 1).await?;
    let record = &dead.first().context("no dead letter")?.record;
    ensure!(store.edit_and_retry_dead_letter(&mut tx, record.id, &record.envelope).await?);
    Ok(tx.commit().await?)
}

pub(crate) async fn passes_the_suite<DB: Server>() -> anyhow::Result<()> {
    let shop = Shop::<DB>::open().await?;
    let store = Arc::new(DB::Store::default());
    for report in [
        conformance::message_store(&shop.pool, store.clone()).await,
        conformance::snapshot_repository(&shop.pool, store.clone()).await,
        conformance::outbox_repository(&shop.pool, store).await,
    ] {
        report.assert_passed();
        ensure!(report.clauses().len() >= 12 && report.not_run().is_empty(), "{report}");
    }
    shop.close().await
}

pub(crate) async fn changes_no_table<DB: Server>() -> anyhow::Result<()> {
    let shop = Shop::<DB>::open().await?;
    for statement in [
        "CREATE TABLE more (n BIGINT)",
        "CREATE VIEW more AS SELECT 1 AS one",
        "CREATE INDEX more ON saga_commit (commit_no)",
        "ALTER TABLE saga_commit ADD COLUMN more BIGINT",
        "TRUNCATE TABLE saga_snapshot",
        "DROP VIEW saga_event",
        "DROP TABLE saga_snapshot",
        "DELETE FROM saga_migrations",
    ] {
        ensure!(DB::execute(&shop.pool, statement).await.is_err(), "it may {statement}");
    }
    let refused = drop_schema(&shop.pool).await;
    ensure!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");

    // An older schema, of which the role can say no more than that it is not its to mend.
    let newest = "SELECT * FROM (SELECT MAX(version) FROM saga_migrations) AS newest";
    DB::execute(&shop.owner, &format!("DELETE FROM saga_migrations WHERE version = ({newest})")).await?;
    let refused = migrate(&shop.pool).await;
    ensure!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    ensure!(matches!(check_schema(&shop.pool).await, Err(Error::SchemaMissing { .. })));
    let ran = run(&shop.url, &["migrate"])?;
    ensure!(ran.status == 1 && ran.err.contains("denied"), "{ran:?}");
    shop.close().await
}
