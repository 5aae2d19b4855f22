//! Passwords and payloads, looked for in all that is printed, logged and shown.

use std::process::Command;

use anyhow::ensure;

use crate::command::command;
use crate::leaks_seen::{ASKED, PASSWORD, SHOWN};
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
use crate::leaks_seen::{EMITTERS, NATS_ADDRESS};
use crate::secrets::SECRET;
use crate::site::Site;

/// Fewest lines that a process logs which does some work.
const LINES: usize = 20;

/// The same URL with a password that is wrong, another host, and another database; of a file, one that cannot be there.
fn wrong<DB: Site>(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://").filter(|_| DB::VARIABLE.is_some()) else {
        return vec![format!("sqlite:///nowhere/{PASSWORD}/sagas.db")];
    };
    let (user, place) = rest.rsplit_once('@').unwrap();
    let (name, right) = user.split_once(':').unwrap();
    let place = place.split('?').next().unwrap();
    let host = place.split('/').next().unwrap();
    vec![
        format!("{scheme}://{name}:{PASSWORD}@{place}"),
        format!("{scheme}://{name}:{PASSWORD}@127.0.0.1:1/shop"),
        format!("{scheme}://{name}:{PASSWORD}@no-such-host.invalid/shop"),
        format!("{scheme}://{name}:{right}@{host}/no_such_database"),
    ]
}

/// The password in an URL.
fn password_of(url: &str) -> Option<&str> {
    url.split_once("://")?.1.rsplit_once('@')?.0.split_once(':').map(|(_, password)| password)
}

fn hides(what: &str, text: &str, url: &str) -> anyhow::Result<()> {
    let passwords = [Some(PASSWORD), Some(SECRET), password_of(url).filter(|password| password.len() > 4)];
    for secret in passwords.into_iter().flatten() {
        let line = text.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "{what} shows {secret:?}: {line:?}");
    }
    // As the numbers of its bytes.
    let bytes = format!("{:?}", SECRET.as_bytes());
    ensure!(!text.contains(bytes.trim_matches(['[', ']'])), "{what} shows the bytes of {SECRET:?}");
    Ok(())
}

/// Runs this program once more, to do what `job` says, and looks at what it printed and logged.
fn look_at(job: &str, url: &str) -> anyhow::Result<String> {
    let ran = Command::new(std::env::current_exe()?)
        .env(ASKED, job)
        .env("DATABASE_URL", url)
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "0")
        .output()?;
    let (out, log) = (String::from_utf8(ran.stdout)?, String::from_utf8(ran.stderr)?);
    ensure!(ran.status.success(), "{job} failed: {out}{}", &log[log.len().saturating_sub(2000)..]);
    ensure!(out.contains(SHOWN), "{job} showed nothing: {out}");
    hides(&format!("what {job} shows"), &out, url)?;
    hides(&format!("what {job} logs"), &log, url)?;
    Ok(log)
}

pub(crate) async fn nowhere<DB: Site>() -> anyhow::Result<()> {
    let place = DB::create().await?;
    let log = look_at(&format!("use {}", DB::KIND), &place.url)?;
    ensure!(log.lines().count() > LINES && log.contains("DEBUG sqlx::query"), "nothing was logged");
    for url in wrong::<DB>(&place.url) {
        look_at(&format!("refuse {}", DB::KIND), &url)?;
    }
    DB::remove(place).await
}

pub(crate) async fn of_the_command<DB: Site>() -> anyhow::Result<()> {
    let place = DB::create().await?;
    for url in wrong::<DB>(&place.url) {
        for verb in [&["check"][..], &["migrate"], &["instances", "--json"], &["export", "/nowhere/export"]] {
            let ran = command(&url, verb).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").output()?;
            let (out, err) = (String::from_utf8(ran.stdout)?, String::from_utf8(ran.stderr)?);
            ensure!(ran.status.code() == Some(1) && err.starts_with("sagastore: "), "{verb:?}: {out}{err}");
            hides("the command", &(out + &err), &url)?;
        }
    }
    DB::remove(place).await
}

#[cfg(all(feature = "nats", feature = "rabbitmq"))]
pub(crate) async fn of_emitters() -> anyhow::Result<()> {
    // The brokers themselves, where there are some, with a password that is not theirs.
    let url = |variable: &str, scheme: &str| {
        let broker = std::env::var(variable).ok();
        let place = broker.as_deref().and_then(|url| url.rsplit_once('@')).map_or("127.0.0.1:1", |(_, place)| place);
        format!("{scheme}://saga:{PASSWORD}@{place}")
    };
    let urls = [url("SAGASTORE_TEST_NATS_URL", "nats"), url("SAGASTORE_TEST_RABBITMQ_URL", "amqp")];
    look_at(EMITTERS, &urls.join(" "))?;
    // The manual warns of it. Shows too that what is there is found.
    let seen = look_at(NATS_ADDRESS, &urls[0]).err().map(|fault| fault.to_string()).unwrap_or_default();
    ensure!(seen.contains("async_nats") && seen.contains(PASSWORD), "async-nats hides passwords by now: {seen}");
    Ok(())
}
