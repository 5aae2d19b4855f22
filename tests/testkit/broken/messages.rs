//! Flaws of message stores.

use async_trait::async_trait;
use sagastore::{
    CommitNumber, CommitPage, EncodedCommit, Envelope, Error, Head, Limits, LoadFrom, LoadRequest, Loaded, MessageId,
    MessageKind, MessageStore, Offset, RecordedEvent, Result, StoredCommit, StreamName, StreamRow, Timestamp,
    UnitCommit,
};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Broken, Flaw, Part, finds};

#[async_trait]
impl MessageStore<Sqlite> for Broken {
    async fn append_messages(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        stream: &StreamName,
        offset: Offset,
        messages: &[Envelope],
    ) -> Result<Offset> {
        assert!(!self.has(Flaw::Panics) || messages.len() < 10, "too many messages");
        let mut messages = messages.to_vec();
        if self.has(Flaw::DropsMetadata) {
            messages.iter_mut().for_each(|message| message.metadata.clear());
        }
        if self.has(Flaw::NumbersCommands) {
            messages.iter_mut().for_each(|message| message.kind = MessageKind::Event);
        }
        if self.has(Flaw::RenamesMessages) {
            messages = messages.into_iter().map(|message| message.with_message_id(MessageId::new())).collect();
        }
        let stream = &self.name(stream);
        if self.has(Flaw::IgnoresTheTransaction) {
            let mut conn = self.inner_connection().await;
            let mut own = self.inner.begin(&mut conn).await?;
            let end = self.inner.append_messages(&mut own, stream, offset, &messages).await?;
            own.commit().await.unwrap();
            return Ok(end);
        }
        match self.inner.append_messages(tx, stream, offset, &messages).await {
            Err(Error::Conflict { actual, .. }) if self.has(Flaw::SwallowsConflicts) => Ok(actual),
            other => other,
        }
    }

    async fn read_page(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        let limit = if self.has(Flaw::ShortPages) { limit.max(2) - 1 } else { limit };
        let mut page = self.inner.read_page(conn, &self.name(stream), from, limit).await?;
        if self.has(Flaw::InventsStreams) {
            page = page.or(Some(Vec::new()));
        }
        if self.has(Flaw::ForgetsStreamsAtTheirEnd) {
            page = page.filter(|events| !events.is_empty());
        }
        for event in page.iter_mut().flatten() {
            if self.has(Flaw::StopsTime) {
                event.envelope.recorded_at = Some(Timestamp::default());
            }
            if self.has(Flaw::CutsPayloads) {
                event.envelope.payload.truncate(65_535);
            }
            event.stream = stream.clone();
        }
        Ok(page)
    }

    async fn next_offset(&self, conn: &mut SqliteConnection, stream: &StreamName) -> Result<Option<Offset>> {
        let mut next = self.inner.next_offset(conn, &self.name(stream)).await?;
        if self.has(Flaw::InventsStreams) {
            next = next.or(Some(Offset::ZERO));
        }
        let wrong = |next: Offset| Offset::try_from(next.get().saturating_sub(1)).unwrap();
        Ok(if self.has(Flaw::OffByOne) { next.map(wrong) } else { next })
    }

    async fn load(&self, conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
        let handled = request.handled.filter(|_| !self.has(Flaw::ForgetsWhatWasHandled));
        let from = if self.has(Flaw::LoadsAll) { LoadFrom::Start } else { request.from };
        let mut loaded = self.inner.load(conn, &LoadRequest { handled, from, ..*request }).await?;
        if self.has(Flaw::InventsHeads) {
            loaded.at_snapshot = loaded.at_snapshot.or(Some(Head::default()));
        }
        if self.has(Flaw::ForgetsOwners) {
            loaded.stream = loaded.stream.map(|row| StreamRow { persistence_key: None, ..row });
        }
        if self.has(Flaw::ForgetsCompletion) {
            loaded.page.commits.iter_mut().for_each(|commit| commit.completed = false);
        }
        if self.has(Flaw::EndsAtOnePage) {
            loaded.page.more = false;
        }
        Ok(loaded)
    }

    async fn read_commits(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        after: CommitNumber,
    ) -> Result<CommitPage> {
        let mut page = self.inner.read_commits(conn, stream, after).await?;
        if self.has(Flaw::SkipsBetweenPages) && !page.commits.is_empty() {
            page.commits.remove(0);
        }
        Ok(page)
    }

    async fn commit(&self, tx: &mut Transaction<'_, Sqlite>, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        let mut unit = *unit;
        if self.has(Flaw::ForgetsWhatWasHandled) {
            unit.handled = None;
        }
        if self.has(Flaw::HandlesOnceForAll)
            && let Some(id) = unit.handled
        {
            let mut handled = self.handled.lock().unwrap();
            if handled.iter().any(|(known, stream)| *known == id && stream != unit.stream) {
                return Ok(None);
            }
            handled.push((id, unit.stream.clone()));
        }
        if self.has(Flaw::SkipsEmptyUnits) && unit.encoded.message_count == 0 {
            return Ok(Some(*unit.head));
        }
        let head;
        if self.has(Flaw::IgnoresTheHead) {
            head = self.actual_head(tx, &unit).await?;
            unit.head = &head;
        }
        let encoded;
        if self.has(Flaw::LosesTheLastEvent) {
            encoded = without_last_event(&unit)?;
            unit.encoded = &encoded;
        }
        let written = self.inner.commit(tx, &unit).await?;
        if self.has(Flaw::GivesTheHeadBefore) { Ok(written.map(|_| *unit.head)) } else { Ok(written) }
    }

    fn begin_statement(&self) -> Option<&'static str> {
        self.inner.begin_statement().filter(|_| !self.has(Flaw::IgnoresTheTransaction))
    }

    async fn begin<'c>(&self, conn: &'c mut SqliteConnection) -> Result<Transaction<'c, Sqlite>> {
        self.inner.begin(conn).await
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        MessageStore::classify(&self.inner, doing, error)
    }
}

impl Broken {
    async fn inner_connection(&self) -> sqlx::pool::PoolConnection<Sqlite> {
        self.pool.acquire().await.unwrap()
    }

    fn name(&self, stream: &StreamName) -> StreamName {
        let confused = self.has(Flaw::ConfusesNames);
        if confused { StreamName::new(stream.as_str().to_lowercase()).unwrap() } else { stream.clone() }
    }

    /// Where the stream ends now.
    async fn actual_head(&self, conn: &mut SqliteConnection, unit: &UnitCommit<'_>) -> Result<Head> {
        let request = LoadRequest { stream: unit.stream, from: LoadFrom::Start, handled: None };
        let mut loaded = self.inner.load(conn, &request).await?;
        let mut last = loaded.page.commits.last().cloned();
        while let Some(known) = last.as_ref().filter(|_| loaded.page.more) {
            loaded.page = self.inner.read_commits(conn, &unit.stream.name, known.commit_number).await?;
            last = loaded.page.commits.last().cloned().or(last);
        }
        let Some(last) = last else { return Ok(Head::default()) };
        Ok(Head {
            key: loaded.stream.map(|row| row.key),
            commit_number: last.commit_number,
            next_offset: last.end()?,
            recorded_at: last.recorded_at,
            order_token: last.order_token,
            checksum: last.checksum,
            completed: last.completed,
        })
    }
}

fn without_last_event(unit: &UnitCommit<'_>) -> Result<EncodedCommit> {
    let encoded = unit.encoded;
    let stored = StoredCommit {
        commit_number: unit.commit_number()?,
        first_offset: unit.head.next_offset,
        event_count: encoded.event_count,
        completed: false,
        recorded_at: Timestamp::default(),
        order_token: 0,
        causation_id: encoded.causation_id,
        correlation_id: encoded.correlation_id,
        checksum: encoded.checksum,
        contents: encoded.contents.clone(),
        body: encoded.body.clone().into(),
    };
    let mut messages = stored.messages(&unit.stream.name)?;
    if let Some(last) = messages.iter().rposition(|message| message.kind == MessageKind::Event) {
        messages.remove(last);
    }
    EncodedCommit::encode(&unit.stream.name, &messages, &Limits::default())
}

#[tokio::test]
async fn a_store_that_swallows_conflicts_is_found() {
    let clauses = [
        "an_append_below_the_end_is_a_conflict_that_tells_both_ends",
        "an_append_beyond_the_end_is_a_conflict_that_tells_both_ends",
        "a_conflict_leaves_the_transaction_usable",
        "an_append_of_nothing_changes_nothing_and_checks_the_offset",
        "of_concurrent_appends_one_wins",
        "of_concurrent_first_appends_one_wins",
    ];
    finds(Flaw::SwallowsConflicts, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_is_off_by_one_is_found() {
    let clauses = [
        "names_that_differ_in_a_byte_are_different_streams",
        "the_last_event_and_the_next_offset_are_told",
        "a_transaction_sees_its_own_appends",
    ];
    finds(Flaw::OffByOne, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_drops_metadata_is_found() {
    finds(Flaw::DropsMetadata, Part::Messages, &["every_field_of_an_event_comes_back"]).await;
}

#[tokio::test]
async fn a_store_with_short_pages_is_found() {
    let clauses = ["a_page_has_as_many_events_as_asked_for", "a_page_begins_at_its_offset"];
    finds(Flaw::ShortPages, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_loses_the_last_event_is_found() {
    let clauses = [
        "a_unit_of_work_is_loaded_as_it_was_committed",
        "a_unit_of_work_without_events_is_a_commit_too",
        "two_sagas_with_one_instance_id_are_two_streams",
        "a_unit_of_work_on_an_old_head_is_refused",
        "a_refused_unit_of_work_leaves_the_transaction_usable",
        "a_unit_of_work_on_a_head_that_was_rolled_back_is_refused",
        "a_completed_instance_is_loaded_as_completed",
        "a_unit_of_work_committed_alone_is_there_at_once",
        "each_unit_of_work_of_a_group_is_judged_alone",
        "the_commit_that_handled_a_message_is_found",
        "a_message_is_handled_once_only",
    ];
    finds(Flaw::LosesTheLastEvent, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_forgets_what_was_handled_is_found() {
    let clauses = ["the_commit_that_handled_a_message_is_found", "a_message_is_handled_once_only"];
    finds(Flaw::ForgetsWhatWasHandled, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_forgets_completion_is_found() {
    let clauses = ["a_completed_instance_is_loaded_as_completed", "a_unit_of_work_gives_the_head_that_a_load_finds"];
    finds(Flaw::ForgetsCompletion, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_ignores_with_what_a_unit_of_work_was_loaded_is_found() {
    let clauses = [
        "a_unit_of_work_on_an_old_head_is_refused",
        "a_refused_unit_of_work_leaves_the_transaction_usable",
        "a_unit_of_work_on_a_head_that_was_rolled_back_is_refused",
        "a_unit_of_work_committed_alone_is_there_at_once",
        "each_unit_of_work_of_a_group_is_judged_alone",
        "of_concurrent_units_of_work_one_wins",
    ];
    finds(Flaw::IgnoresTheHead, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_ends_at_one_page_is_found() {
    finds(Flaw::EndsAtOnePage, Part::Messages, &["a_long_history_comes_in_pages_without_a_gap"]).await;
}

#[tokio::test]
async fn a_store_that_ignores_the_transaction_is_found() {
    let clauses = [
        "an_append_that_is_rolled_back_leaves_nothing",
        "a_transaction_sees_its_own_appends",
        "nobody_else_sees_what_is_not_committed",
    ];
    finds(Flaw::IgnoresTheTransaction, Part::Messages, &clauses).await;
}

#[tokio::test]
async fn a_store_that_panics_fails_the_clause_and_no_other() {
    let report = super::report(Flaw::Panics, Part::Messages).await;
    assert_eq!(report.failed(), ["appended_events_get_dense_offsets_in_order"], "{report}");
    assert!(report.to_string().contains("appended_events_get_dense_offsets_in_order: it panicked"), "{report}");
    let text = crate::order::complaint(|| report.assert_passed());
    assert_eq!(text, report.to_string());
}

/// Flaws that one or few clauses find.
#[tokio::test]
async fn what_else_a_store_can_do_wrong_is_found() {
    for (flaw, clauses) in [
        (Flaw::ConfusesNames, &["names_that_differ_in_a_byte_are_different_streams"][..]),
        (
            Flaw::InventsStreams,
            &[
                "a_stream_that_was_never_written_is_not_there",
                "an_append_of_nothing_changes_nothing_and_checks_the_offset",
            ],
        ),
        (Flaw::ForgetsStreamsAtTheirEnd, &["a_page_beyond_the_end_is_empty"]),
        (Flaw::GivesTheHeadBefore, &["a_unit_of_work_gives_the_head_that_a_load_finds"]),
        (Flaw::StopsTime, &["the_time_of_recording_rises_strictly"]),
        (Flaw::CutsPayloads, &["large_and_empty_payloads_come_back_byte_for_byte"]),
        (Flaw::NumbersCommands, &["appended_commands_take_no_offset"]),
        (
            Flaw::RenamesMessages,
            &["an_id_that_stands_twice_in_an_append_is_refused", "every_field_of_an_event_comes_back"],
        ),
        (
            Flaw::LoadsAll,
            &["loading_from_a_commit_gives_its_head_and_what_follows", "a_long_history_comes_in_pages_without_a_gap"],
        ),
        (
            Flaw::InventsHeads,
            &[
                "an_instance_that_was_never_saved_is_loaded_as_nothing",
                "loading_from_a_commit_that_is_not_there_gives_no_head",
            ],
        ),
        (Flaw::HandlesOnceForAll, &["another_instance_may_handle_the_same_message"]),
        (
            Flaw::SkipsEmptyUnits,
            &[
                "a_unit_of_work_without_events_is_a_commit_too",
                "a_unit_of_work_on_an_old_head_is_refused",
                "a_message_is_handled_once_only",
            ],
        ),
        (
            Flaw::ForgetsOwners,
            &["a_unit_of_work_is_loaded_as_it_was_committed", "two_sagas_with_one_instance_id_are_two_streams"],
        ),
        (Flaw::SkipsBetweenPages, &["a_long_history_comes_in_pages_without_a_gap"]),
    ] {
        finds(flaw, Part::Messages, clauses).await;
    }
}
