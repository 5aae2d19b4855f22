//! Loading instances.

use sqlx::Database;

use super::append::StoreBench;
use super::bench::{Finding, ensure, found, same};
use super::sample::{Unit, as_sent, command, event, events, peculiar, saga_stream};
use crate::commit::StoredCommit;
use crate::envelope::Envelope;
use crate::error::Cause;
use crate::ids::{CommitNumber, Offset};
use crate::message::MessageKind;
use crate::message_store::{Head, LoadFrom, LoadRequest, Loaded, PAGE_COMMITS};
use crate::saga::SagaStream;

impl<DB: Database> StoreBench<DB> {
    pub(super) fn instance(&self, id: &str) -> Result<SagaStream, Cause> {
        saga_stream("conformance", &self.name(id))
    }

    pub(super) async fn load(&self, stream: &SagaStream, from: LoadFrom) -> Result<Loaded, Cause> {
        let request = LoadRequest { stream, from, handled: None };
        Ok(self.subject.load(&mut *self.conn().await?, &request).await?)
    }

    /// Where a stream ends, by its last commit; of a short stream.
    pub(super) async fn head(&self, stream: &SagaStream) -> Result<Head, Cause> {
        let loaded = self.load(stream, LoadFrom::Start).await?;
        let key = loaded.stream.map(|row| row.key);
        loaded.page.commits.last().map_or(Ok(Head { key, ..Head::default() }), |last| Ok(Head::after(key, last)?))
    }

    /// Commits a unit of work in a transaction of its own.
    pub(super) async fn commit(&self, unit: &Unit) -> Result<bool, Cause> {
        let mut tx = self.begin().await?;
        let written = self.subject.commit(&mut tx, &unit.as_commit()).await?;
        tx.commit().await?;
        Ok(written.is_some())
    }

    /// Commits messages at the end of a stream.
    pub(super) async fn extend(&self, stream: &SagaStream, messages: &[Envelope]) -> Finding {
        let unit = Unit::new(stream, self.head(stream).await?, messages)?;
        ensure(self.commit(&unit).await?, "a unit of work at the end of its stream was refused")
    }
}

fn numbers(commits: &[StoredCommit]) -> Vec<CommitNumber> {
    commits.iter().map(|commit| commit.commit_number).collect()
}

pub(super) async fn an_instance_that_was_never_saved_is_loaded_as_nothing<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let stream = bench.instance("never")?;
    for from in [LoadFrom::Start, LoadFrom::Snapshot, LoadFrom::Commit(CommitNumber::of(1))] {
        let loaded = bench.load(&stream, from).await?;
        same("number of commits", loaded.page.commits.len(), 0)?;
        let nothing = loaded.snapshot.is_none() && loaded.at_snapshot.is_none() && !loaded.page.more;
        ensure(nothing, format!("loading from {from:?} found something"))?;
    }
    Ok(())
}

pub(super) async fn a_unit_of_work_is_loaded_as_it_was_committed<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.instance("whole")?;
    let first = [peculiar(MessageKind::Event)?, peculiar(MessageKind::Command)?, event("")?];
    let second = [command("c")?, event("e")?];
    bench.extend(&stream, &first).await?;
    bench.extend(&stream, &second).await?;
    let loaded = bench.load(&stream, LoadFrom::Start).await?;
    let row = found("the row of the stream", loaded.stream)?;
    same("owner of the stream", row.persistence_key.as_deref(), Some("conformance"))?;
    same("numbers of the commits", numbers(&loaded.page.commits), vec![CommitNumber::of(1), CommitNumber::of(2)])?;
    let mut offset = 0;
    for (commit, sent) in loaded.page.commits.iter().zip([&first[..], &second[..]]) {
        same("first offset of a commit", commit.first_offset, Offset::of(offset))?;
        let came: Vec<_> = commit.messages(&stream.name)?.iter().map(as_sent).collect();
        same("messages of a commit", &came[..], sent)?;
        offset += commit.event_count;
    }
    let page = bench.subject.read_page(&mut *bench.conn().await?, &stream.name, Offset::ZERO, 10).await?;
    same("number of events that are read", found("the page", page)?.len(), 3)
}

pub(super) async fn a_unit_of_work_without_events_is_a_commit_too<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let stream = bench.instance("empty")?;
    bench.extend(&stream, &[]).await?;
    bench.extend(&stream, &[command("c")?]).await?;
    bench.extend(&stream, &events(0..1)?).await?;
    let commits = bench.load(&stream, LoadFrom::Start).await?.page.commits;
    same("numbers of the commits", numbers(&commits), (1..4).map(CommitNumber::of).collect())?;
    let offsets: Vec<_> = commits.iter().map(|commit| (commit.first_offset, commit.event_count)).collect();
    let zero = Offset::ZERO;
    same("first offsets and numbers of events", offsets, vec![(zero, 0), (zero, 0), (zero, 1)])
}

pub(super) async fn two_sagas_with_one_instance_id_are_two_streams<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let id = bench.name("shared");
    for key in ["one", "two"] {
        bench.extend(&saga_stream(key, &id)?, &[event(key)?]).await?;
    }
    for key in ["one", "two"] {
        let stream = saga_stream(key, &id)?;
        let loaded = bench.load(&stream, LoadFrom::Start).await?;
        same("owner", found("the row of the stream", loaded.stream)?.persistence_key.as_deref(), Some(key))?;
        same("events", bench.payloads(&stream.name).await?, vec![key.to_owned()])?;
    }
    Ok(())
}

pub(super) async fn loading_from_a_commit_gives_its_head_and_what_follows<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let stream = bench.instance("from")?;
    for number in 0..5 {
        bench.extend(&stream, &events(number * 2..number * 2 + 2)?).await?;
    }
    let all = bench.load(&stream, LoadFrom::Start).await?;
    let key = all.stream.map(|row| row.key);
    for from in 1..=5_u32 {
        let loaded = bench.load(&stream, LoadFrom::Commit(CommitNumber::of(from))).await?;
        let at = found("the head as of the commit", loaded.at_snapshot)?;
        let commit = found("the commit", all.page.commits.get(usize::try_from(from - 1)?))?;
        same("the head as of a commit", at, Head::after(key, commit)?)?;
        let follow: Vec<_> = (from + 1..=5).map(CommitNumber::of).collect();
        same(&format!("commits after {from}"), numbers(&loaded.page.commits), follow)?;
    }
    Ok(())
}

pub(super) async fn loading_from_a_commit_that_is_not_there_gives_no_head<DB: Database>(
    bench: &StoreBench<DB>,
) -> Finding {
    let stream = bench.instance("short")?;
    bench.extend(&stream, &events(0..1)?).await?;
    let loaded = bench.load(&stream, LoadFrom::Commit(CommitNumber::of(7))).await?;
    same("the head as of a commit that is not there", loaded.at_snapshot, None)
}

pub(super) async fn a_long_history_comes_in_pages_without_a_gap<DB: Database>(bench: &StoreBench<DB>) -> Finding {
    let (stream, length) = (bench.instance("long")?, PAGE_COMMITS + 20);
    let mut tx = bench.begin().await?;
    let mut head = Head::default();
    for number in 0..length {
        let unit = Unit::new(&stream, head, &events(number..number + 1)?)?;
        ensure(
            bench.subject.commit(&mut tx, &unit.as_commit()).await?.is_some(),
            format!("commit {} was refused", number + 1),
        )?;
        let after = LoadFrom::Commit(CommitNumber::of(number));
        let request = LoadRequest { stream: &stream, from: after, handled: None };
        let loaded = bench.subject.load(&mut tx, &request).await?;
        let key = loaded.stream.as_ref().map(|row| row.key);
        head = Head::after(key, found("the commit that was just written", loaded.page.commits.last())?)?;
    }
    tx.commit().await?;
    let mut page = bench.load(&stream, LoadFrom::Start).await?.page;
    let mut all = numbers(&page.commits);
    while page.more {
        let last = *found("the last commit of a page that has more", all.last())?;
        page = bench.subject.read_commits(&mut *bench.conn().await?, &stream.name, last).await?;
        ensure(!page.commits.is_empty() || !page.more, "an empty page says that there is more")?;
        all.extend(numbers(&page.commits));
    }
    same("numbers of all commits", all, (1..=length).map(CommitNumber::of).collect())
}
