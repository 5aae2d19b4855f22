//! What is in the database.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, ensure};
use sagastore::inspect::{Inspector, InstanceFilter, InstanceSummary, LifeCommit};
use sagastore::{CommitNumber, Inbox, InstanceId, KeySet, MessageId, MessageKind};
use sqlx::Pool;

use super::{Fate, Of};
use crate::clients::Manner;
use crate::clients::work::CONSUMER;
use crate::site::Site;
use crate::tally::{self, Command, Event, KEYED, NAMED, Tally};

/// How many instances are listed at once.
const PAGE: u32 = 500;

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// In which saga, and for which name, a message was handled.
    units: HashMap<MessageId, (&'static str, String)>,
    own_rows: HashSet<MessageId>,
    received: HashSet<MessageId>,
    /// The instances that are found by keys, by their names.
    keyed: BTreeMap<String, InstanceId>,
    /// The messages of each stream, in order.
    pub(crate) streams: Vec<Vec<MessageId>>,
}

impl Stored {
    pub(crate) async fn read<DB: Site>(pool: &Pool<DB>, messages: &Of) -> anyhow::Result<Self> {
        let mut stored = Self::default();
        let (inspector, mut after) = (Inspector::new(pool), None);
        loop {
            let page = inspector.instances(&InstanceFilter::default(), after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            for instance in &page {
                let stream = &instance.stream;
                stored.add(&inspector, instance).await.with_context(|| format!("stream {stream:?}"))?;
            }
        }
        let mut conn = pool.acquire().await?;
        for row in DB::texts(&mut conn, "SELECT message_id FROM own_row".to_owned()).await? {
            stored.own_rows.insert(row[0].parse()?);
        }
        let inbox = Inbox::new(CONSUMER)?;
        for (message, _) in messages.iter().filter(|(_, fate)| fate.manner == Manner::Inbox) {
            if inbox.has_received::<DB>(&mut conn, *message).await? {
                stored.received.insert(*message);
            }
        }
        Ok(stored)
    }

    async fn add<DB: Site>(&mut self, inspector: &Inspector<DB>, instance: &InstanceSummary) -> anyhow::Result<()> {
        let sagas = [NAMED.persistence_key, KEYED.persistence_key];
        let saga = sagas.into_iter().find(|key| *key == instance.persistence_key).context("a foreign saga")?;
        let (mut sent, mut number, mut name) = (Vec::new(), CommitNumber::ZERO, None);
        loop {
            let page = inspector.life(&instance.stream, number).await?;
            let Some(last) = page.last() else { break };
            number = last.number;
            for commit in page {
                let unit = Unit::of(commit)?;
                ensure!(unit.handled == Some(unit.message) || saga == KEYED.persistence_key, "the mark is another's");
                ensure!(name.get_or_insert(unit.name.clone()) == &unit.name, "it is of two names");
                let known = self.units.insert(unit.message, (saga, unit.name));
                ensure!(known.is_none(), "message {} was handled twice", unit.message);
                sent.extend(unit.sent);
            }
        }
        self.streams.push(sent);
        let name = name.context("it has no commits")?;
        if saga == KEYED.persistence_key {
            let other = self.keyed.insert(name.clone(), instance.instance_id.clone());
            ensure!(other.is_none(), "two instances have the key {name:?}");
        } else {
            ensure!(instance.instance_id.as_str() == name, "it is of the name {name:?}");
        }
        Ok(())
    }

    /// Whether a message is handled, with all that comes with it; an error if only some of that is there.
    pub(crate) fn is_whole(&self, message: MessageId, fate: &Fate) -> anyhow::Result<bool> {
        let unit = self.units.get(&message);
        let saga = match fate.manner {
            Manner::Inbox => None,
            Manner::Keyed => Some(KEYED.persistence_key),
            _ => Some(NAMED.persistence_key),
        };
        let expected = saga.map(|saga| (saga, fate.name.clone()));
        ensure!(unit.is_none() || unit == expected.as_ref(), "it was handled as {unit:?}, not as {expected:?}");
        let received = self.received.contains(&message);
        let present = unit.is_some() || received;
        let own_row = self.own_rows.contains(&message);
        ensure!(own_row == (present && fate.manner.has_own_row()), "handled: {present}, own row: {own_row}");
        Ok(present)
    }

    /// The instances that are found by keys have theirs.
    pub(crate) async fn check_keys<DB: Site>(&self, pool: &Pool<DB>) -> anyhow::Result<()> {
        let (mut conn, mut expected) = (pool.acquire().await?, 0_usize);
        for (name, instance) in &self.keyed {
            for key in tally::keys(name)? {
                let found = KeySet::<Tally>::find::<DB>(&mut conn, KEYED.persistence_key, &key).await?;
                ensure!(found.as_ref() == Some(instance), "key {key:?} is that of {found:?}, not of {instance:?}");
                expected += 1;
            }
        }
        let sql = "SELECT CAST(COUNT(*) AS CHAR(40)) FROM saga_correlation_key".to_owned();
        let there = &DB::texts(&mut conn, sql).await?[0][0];
        ensure!(*there == expected.to_string(), "{there} keys are there, and {expected} belong to instances");
        Ok(())
    }
}

/// One commit.
struct Unit {
    message: MessageId,
    name: String,
    handled: Option<MessageId>,
    sent: Vec<MessageId>,
}

impl Unit {
    /// All events and the command of one message, and nothing else.
    fn of(commit: LifeCommit) -> anyhow::Result<Self> {
        let (mut events, mut command, mut sent, mut of) = (0, None, Vec::new(), None);
        for message in commit.messages? {
            let envelope = message.envelope;
            sent.push(envelope.message_id);
            match envelope.kind {
                MessageKind::Event => {
                    let Event::Counted { message, part, name, .. } = serde_json::from_slice(&envelope.payload)?;
                    ensure!(part == events, "part {part} stands in place of part {events}");
                    ensure!(of.get_or_insert((message, name)).0 == message, "a commit of two messages");
                    events += 1;
                }
                MessageKind::Command => {
                    let Command::Tell { message } = serde_json::from_slice(&envelope.payload)?;
                    ensure!(command.replace(message).is_none(), "a commit with two commands");
                }
            }
        }
        let (message, name) = of.context("a commit without events")?;
        ensure!(events == tally::events(message), "{events} events of message {message}");
        ensure!(command == Some(message), "message {message} comes with the command {command:?}");
        Ok(Self { message, name, handled: commit.handled, sent })
    }
}
