//! Names, payloads and errors that a terminal would act upon, and what the command prints of them.

use anyhow::ensure;
use sagastore::dispatcher::{DeliveryRetry, Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::{Envelope, InstanceId, MessageKind, NewOutboxRecord, OutboxRecord, OutboxRepository, Persister};
use sqlx::Pool;

use crate::command::{Ran, run_showing};
use crate::fill::{Diary, Mail, Noted};
use crate::parking::park;
use crate::site::Site;

/// Clears the screen, in two ways; sets the title; ends the line; turns the direction of writing.
const EVIL: &str = "a\u{1b}[2J\u{9b}2J\u{1b}]0;title\u{7}\r\n\u{8}\u{7f}\u{85}\u{202e}\u{2066}\u{2028}z";

fn acts(c: char) -> bool {
    c != '\n' && (c.is_control() || "\u{61c}\u{200e}\u{200f}\u{202e}\u{2066}\u{2028}".contains(c))
}

/// Fails if a terminal would do anything but show it.
fn is_plain(what: &[&str], ran: &Ran) -> anyhow::Result<()> {
    let mut all = ran.out.chars().chain(ran.err.chars());
    ensure!(!all.any(acts), "{what:?} prints what acts upon a terminal: {ran:?}");
    ensure!(ran.status != 101 && !ran.err.contains("panicked"), "{what:?} panics: {ran:?}");
    Ok(())
}

async fn fill<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let persister = Persister::<DB>::new();
    let id = InstanceId::new(EVIL)?;
    let noted = persister.execute(pool, &Diary, &id, None, |unit| {
        unit.publish(Noted::Noted { note: EVIL.to_owned() })?;
        unit.execute_to(&Mail::Send { text: EVIL.to_owned() }, EVIL)?;
        unit.schedule(EVIL, &Mail::Send { text: EVIL.to_owned() }, std::time::Duration::from_secs(3600)).map(drop)
    });
    ensure!(!noted.await?.is_already_handled());
    let mut message = Envelope::new(MessageKind::Event, EVIL, 1, EVIL, EVIL.as_bytes().to_vec())?;
    message.destination = Some(EVIL.into());
    message.metadata.insert(EVIL.into(), EVIL.into());
    let mut tx = persister.begin(pool).await?;
    DB::Store::default().save(&mut tx, &[NewOutboxRecord::new(EVIL, EVIL, message)]).await?;
    tx.commit().await?;
    let emitter = emitter_fn(|_: OutboxRecord| async { Err::<(), _>(std::io::Error::other(EVIL)) });
    let at_once = DeliveryRetry::new(1, 0, std::time::Duration::ZERO, std::time::Duration::ZERO, 0.0)?;
    let dispatcher = Dispatcher::new(pool.clone(), emitter);
    let dispatcher = dispatcher.with_settings(DispatcherSettings::default().with_retry(at_once));
    while dispatcher.dispatch_once().await?.dead > 0 {}
    park(pool, EVIL, EVIL).await?;
    let locker = sagastore::lock::DatabaseLock::new(pool.clone());
    let (resource, client) = (sagastore::lock::ResourceId::new(EVIL)?, sagastore::lock::ClientId::new(EVIL)?);
    ensure!(sagastore::lock::Lock::obtain_no_wait(&locker, &resource, &client).await?.lease().is_some());
    Ok(())
}

pub(crate) async fn is_left_alone<DB: Site>() -> anyhow::Result<()> {
    let place = DB::create().await?;
    let url = place.url.as_str();
    ensure!(run_showing(url, &["migrate"])?.status == 0);
    let pool = DB::connect(&place).await?;
    fill(&pool).await?;
    let file = place.file("export");
    let show_all = ["show", EVIL, "--saga", "diary", "--payloads"];
    let verbs: [&[&str]; 11] = [
        &["instances"],
        &["instances", "--parked"],
        &["parked"],
        &["instances", "--prefix", EVIL],
        &show_all,
        &["show", EVIL],
        &["outbox"],
        &["outbox", "dead-letters", "list"],
        &["locks"],
        &["check"],
        &["export", &file],
    ];
    for verb in verbs {
        for format in [&[][..], &["--json"]] {
            let verb = [verb, format].concat();
            let ran = run_showing(url, &verb)?;
            is_plain(&verb, &ran)?;
            ensure!(ran.status == 0, "{verb:?}: {ran:?}");
        }
    }
    let objects = run_showing(url, &[&show_all[..], &["--json"]].concat())?.objects();
    ensure!(
        objects[0]["instance"]["instance"] == EVIL || objects.iter().any(|object| object.to_string().contains("u001b"))
    );
    let letters = run_showing(url, &["outbox", "dead-letters", "list", "--json"])?.objects();
    ensure!(
        letters
            .iter()
            .any(|letter| letter["instance"] == EVIL && letter["last_error"].as_str().unwrap().ends_with(EVIL)),
        "{letters:?}"
    );
    let parked = run_showing(url, &["parked", "--json"])?.objects();
    ensure!(parked.len() == 1 && parked[0].to_string().contains("u001b"), "{parked:?}");
    ensure!(run_showing(url, &["locks", "--json"])?.objects().iter().any(|lease| lease["holder"] == EVIL));
    // What is not there, and what is not understood.
    for verb in [
        &["show", "\u{1b}[2J\u{9b}2J"][..],
        &["show", "1", "--saga", EVIL],
        &["\u{1b}[2J"],
        &["instances", EVIL],
        &["instances", "--limit", "\u{9b}2J"],
        &["export", "/nowhere/\u{1b}[2J"],
        &["import", "\u{1b}[2J"],
        &["outbox", "dead-letters", "retry", "--id", "\u{1b}[2J", "--yes"],
        &["outbox", "dead-letters", "discard", "--id", "\u{1b}[2J", "--yes"],
        &["parked", "discard", "--id", "\u{1b}[2J", "--yes"],
    ] {
        let ran = run_showing(url, verb)?;
        is_plain(verb, &ran)?;
        ensure!(ran.status != 0, "{verb:?}: {ran:?}");
    }
    let unknown = run_showing("postgres\u{1b}[2J://root@host/\u{1b}[2J", &["check"])?;
    is_plain(&["check"], &unknown)?;
    // Damage is told by its place.
    DB::execute(&pool, "UPDATE saga_commit SET checksum = 0").await?;
    for verb in [&["check"][..], &["check", "--json"], &show_all, &["export", &place.file("more")]] {
        is_plain(verb, &run_showing(url, verb)?)?;
    }
    pool.close().await;
    DB::remove(place).await
}
