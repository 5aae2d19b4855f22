//! Damaged rows: an error that names the place, never a wrong state, and nothing else is drawn in.

use std::sync::Arc;

use sagastore::{BINCODE_CONTENT_TYPE, Bincode, Codecs, Error, MessageStore, Offset, Outbox};

use crate::harness::sample::{Counter, Order, OrderCommand, added, event, events, instance, line, note, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    changed_contents_are_noticed,
    changed_contents_are_noticed_also_under_a_checksum_that_fits,
    every_flipped_bit_and_every_cut_of_a_body_is_noticed,
    a_changed_checksum_is_noticed,
    a_changed_number_of_events_is_noticed,
    a_changed_offset_is_noticed,
    a_missing_or_renumbered_commit_is_noticed,
    the_view_shows_every_event_with_its_place_and_its_json,
    the_view_shows_all_other_rows_beside_a_damaged_one: BASIC,
}

/// The commit that is damaged, and the offset of its first event.
const COMMIT: u32 = 2;
const PLACE: u32 = 2;

/// Counters of four commits, one for each case, beside streams that nobody touches.
struct Fixture<DB: Subject> {
    db: TestDb<DB>,
    cases: u32,
}

impl<DB: Subject> Fixture<DB> {
    async fn new(db: TestDb<DB>) -> anyhow::Result<Self> {
        db.will_damage();
        db.publish(&Counter, "whole", [added(1), added(2)]).await?;
        db.publish(&Counter, "whole", [added(4)]).await?;
        db.append(&stream("plain"), 0, &events(3)).await?;
        Ok(Self { db, cases: 0 })
    }

    /// A new counter of the commits {0, 1}, {2, 3}, {4} and {5}.
    async fn another(&mut self) -> anyhow::Result<String> {
        self.cases += 1;
        let id = format!("case {}", self.cases);
        for amounts in [&[1, 10][..], &[100, 1000], &[10_000], &[100_000]] {
            self.db.publish(&Counter, &id, amounts.iter().copied().map(added)).await?;
        }
        assert_eq!(self.db.state(&Counter, &id).await?, Some((111_111, 6)));
        Ok(id)
    }

    /// Changes the one commit of the counter.
    async fn change(&self, id: &str, assignments: &str) -> Clause {
        let done = self.db.sql(format!("UPDATE saga_commit SET {assignments} WHERE {}", self.row(id))).await?;
        assert_eq!(done, 1, "{assignments}");
        Ok(())
    }

    fn row(&self, id: &str) -> String {
        let name = DB::text(stream_of(&Counter, id).as_str());
        format!("commit_no = {COMMIT} AND stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = {name})")
    }

    /// A new counter with this change is corrupt at the changed commit.
    async fn check(&mut self, assignments: &str) -> Clause {
        let id = self.another().await?;
        self.change(&id, assignments).await?;
        self.check_corrupt(&id, PLACE, assignments).await
    }

    /// Neither loads nor reads past the damage, and says where it is; all else does.
    async fn check_corrupt(&self, id: &str, place: u32, what: &str) -> Clause {
        let (db, name, key) = (&self.db, stream_of(&Counter, id), instance(id));
        let persister = db.persister();
        let mut tx = db.begin().await?;
        let begun = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &key).await.map(drop);
        db.roll_back(tx).await?;
        let mut conn = db.conn().await?;
        let loaded = persister.load_instance(&Counter, &mut conn, &key).await.map(drop);
        for result in [begun, loaded] {
            assert!(result.is_err(), "{what} is not noticed");
            assert_error!(result, Error::Corrupt { stream, offset, .. } => {
                assert_eq!((&stream, offset), (&name, Offset::of(place)), "{what}");
            });
        }
        let page = db.store().read_page(&mut conn, &name, Offset::ZERO, u32::MAX).await;
        assert!(page.is_err(), "{what} is not noticed: {page:?}");
        assert_error!(page, Error::Corrupt { stream, .. } => assert_eq!(stream, name, "{what}"));
        drop(conn);
        assert_eq!(db.state(&Counter, "whole").await?, Some((7, 3)), "{what}");
        let plain = db.events(&stream("plain")).await?.unwrap();
        assert_eq!(plain.len(), 3, "{what}");
        Ok(())
    }

    /// Contents and body of the commit.
    async fn stored(&self, id: &str) -> anyhow::Result<(String, Vec<u8>)> {
        let rows = self.db.rows(format!("SELECT contents FROM saga_commit WHERE {}", self.row(id))).await?;
        let events = self.db.events(&stream_of(&Counter, id)).await?.unwrap();
        let body = events[2..4].iter().flat_map(|event| event.envelope.payload.to_vec()).collect();
        Ok((rows[0][0].clone().unwrap(), body))
    }
}

/// Contents that are not those of the commit.
fn other_contents(contents: &str) -> Vec<String> {
    let mut others: Vec<String> = ["", "{", "{}", "[]", "null", "7", r#""text""#, r#"{"messages":[]}"#]
        .into_iter()
        .chain([r#"{"at":1,"messages":[]}"#, r#"{"at":1,"messages":{}}"#, r#"{"at":1,"messages":[7]}"#])
        .map(str::to_owned)
        .collect();
    others.extend([1, 20, contents.len() - 1].map(|cut| contents[..cut].to_owned()));
    for (from, to) in [
        (r#""len":"#, r#""len":1"#),
        (r#""len":"#, r#""len":-"#),
        (r#""len":"#, r#""gone":"#),
        (r#"}]"#, r#","kind":"command"}]"#),
        (r#"}]"#, r#","kind":"other"}]"#),
        (r#""id":""#, r#""id":"x"#),
        (r#"]}"#, r#"]}}"#),
    ] {
        others.push(contents.replace(from, to));
    }
    assert!(others.iter().all(|other| other != contents), "each is another: {others:?}");
    others
}

async fn changed_contents_are_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let id = fixture.another().await?;
    let (contents, _) = fixture.stored(&id).await?;
    let mut others = other_contents(&contents);
    // Nothing but the checksum tells these: another name, another version, another time.
    others.push(contents.replace("CounterAdded", "CounterAddee"));
    others.push(contents.replace(r#""len""#, r#""v":2,"len""#));
    others.push(contents.replace(r#"{"at":1"#, r#"{"at":2"#));
    for other in others {
        assert_ne!(other, contents);
        fixture.change(&id, &format!("contents = {}", DB::text(&other))).await?;
        fixture.check_corrupt(&id, PLACE, &other).await?;
    }
    fixture.change(&id, &format!("contents = {}", DB::text(&contents))).await?;
    assert_eq!(fixture.db.state(&Counter, &id).await?, Some((111_111, 6)), "all is well again");
    Ok(())
}

async fn changed_contents_are_noticed_also_under_a_checksum_that_fits<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let id = fixture.another().await?;
    let (contents, body) = fixture.stored(&id).await?;
    let fitting = |contents: &str| {
        let checksum = crc32fast::hash(&[contents.as_bytes(), &body].concat());
        format!("contents = {}, checksum = {checksum}", DB::text(contents))
    };
    for other in other_contents(&contents) {
        fixture.change(&id, &fitting(&other)).await?;
        fixture.check_corrupt(&id, PLACE, &other).await?;
    }
    fixture.change(&id, &fitting(&contents)).await?;
    assert_eq!(fixture.db.state(&Counter, &id).await?, Some((111_111, 6)), "all is well again");
    Ok(())
}

async fn every_flipped_bit_and_every_cut_of_a_body_is_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let id = fixture.another().await?;
    let (_, whole) = fixture.stored(&id).await?;
    let mut others: Vec<Vec<u8>> = (0..whole.len()).step_by(3).map(|cut| whole[..cut].to_vec()).collect();
    others.push([&whole[..], b" "].concat());
    for bit in (0..whole.len() * 8).step_by(5) {
        let mut body = whole.clone();
        body[bit / 8] ^= 1 << (bit % 8);
        others.push(body);
    }
    for body in others {
        fixture.change(&id, &format!("body = {}", DB::bytes(&body))).await?;
        fixture.check_corrupt(&id, PLACE, &String::from_utf8_lossy(&body)).await?;
    }
    fixture.change(&id, &format!("body = {}", DB::bytes(&whole))).await?;
    assert_eq!(fixture.db.state(&Counter, &id).await?, Some((111_111, 6)), "all is well again");
    Ok(())
}

async fn a_changed_checksum_is_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    for value in ["0", "checksum + 1", "checksum - 1", "checksum + 4294967296", "-checksum", "-1"] {
        fixture.check(&format!("checksum = {value}")).await?;
    }
    Ok(())
}

async fn a_changed_number_of_events_is_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    for value in ["0", "1", "3", "2147483647", "-1"] {
        fixture.check(&format!("event_count = {value}")).await?;
    }
    Ok(())
}

async fn a_changed_offset_is_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    for value in ["0", "1", "3", "4", "1000000"] {
        fixture.check(&format!("first_offset = {value}")).await?;
    }
    // A negative offset is no place that could be named.
    let id = fixture.another().await?;
    fixture.change(&id, "first_offset = -1").await?;
    fixture.check_corrupt(&id, 0, "a negative offset").await
}

async fn a_missing_or_renumbered_commit_is_noticed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    for value in ["5", "77", "1000000"] {
        fixture.check(&format!("commit_no = {value}")).await?;
    }
    let id = fixture.another().await?;
    assert_eq!(fixture.db.sql(format!("DELETE FROM saga_commit WHERE {}", fixture.row(&id))).await?, 1);
    fixture.check_corrupt(&id, PLACE, "a missing row").await?;
    // What was put in its place by hand, as if nothing were missing, has another offset.
    let id = fixture.another().await?;
    let row = fixture.row(&id);
    assert_eq!(fixture.db.sql(format!("DELETE FROM saga_commit WHERE {row}")).await?, 1);
    for later in [3, 4] {
        let row = row.replace(&format!("commit_no = {COMMIT}"), &format!("commit_no = {later}"));
        assert_eq!(fixture.db.sql(format!("UPDATE saga_commit SET commit_no = commit_no - 1 WHERE {row}")).await?, 1);
    }
    fixture.check_corrupt(&id, PLACE, "closed ranks").await?;
    // The last one, far beyond the page that it was in.
    let id = fixture.another().await?;
    let row = fixture.row(&id).replace(&format!("commit_no = {COMMIT}"), "commit_no = 4");
    assert_eq!(fixture.db.sql(format!("UPDATE saga_commit SET commit_no = 1000000 WHERE {row}")).await?, 1);
    fixture.check_corrupt(&id, 5, "the last one moved away").await
}

type Row = Vec<Option<String>>;

const VIEW: &str = "SELECT stream_name, event_offset, commit_no, type_name, type_version, content_type, payload \
                    FROM saga_event";

async fn the_view_shows_every_event_with_its_place_and_its_json<DB: Subject>(db: TestDb<DB>) -> Clause {
    let bincode = db.persister().with_codecs(Codecs::new(Arc::new(Bincode), Arc::new(Bincode)));
    let mut unit = db.unit(&Order, "é'1").await?;
    unit.execute(&OrderCommand::SendMail { text: "first".to_owned() })?;
    unit.publish(line("ü€😀", 2, 50))?;
    unit.execute(&OrderCommand::TakePayment { amount_cents: 100 })?;
    unit.publish(note("it's \"so\"\n"))?;
    assert!(db.save(unit).await?.is_changed());
    let mut unit = db.unit(&Order, "é'1").await?;
    unit.execute(&OrderCommand::SendMail { text: "no event".to_owned() })?;
    assert!(db.save(unit).await?.is_changed());
    db.publish_by(&bincode, &Order, "é'1", [note("in bytes"), note("more")]).await?;
    db.publish(&Order, "é'1", [crate::harness::sample::OrderEvent::Shipped]).await?;
    db.append(&stream("plain"), 0, &[event(7)]).await?;
    let json = "application/json";
    let expected = [
        ("0", "1", "OrderLineAdded", "1", json, Some(r#"{"LineAdded":{"item":"ü€😀","quantity":2,"price_cents":50}}"#)),
        ("1", "1", "OrderNoteChanged", "1", json, Some(r#"{"NoteChanged":{"note":"it's \"so\"\n"}}"#)),
        ("2", "3", "OrderNoteChanged", "1", BINCODE_CONTENT_TYPE, None),
        ("3", "3", "OrderNoteChanged", "1", BINCODE_CONTENT_TYPE, None),
        ("4", "4", "OrderShipped", "2", json, Some(r#""Shipped""#)),
    ];
    let name = stream_of(&Order, "é'1");
    let row = |(offset, commit, type_name, version, content_type, payload): (&str, &str, &str, &str, &str, _)| -> Row {
        let texts = [name.as_str(), offset, commit, type_name, version, content_type];
        texts.into_iter().map(Some).chain([payload]).map(|text| text.map(str::to_owned)).collect()
    };
    let of = |name: &str| format!("{VIEW} WHERE stream_name = {} ORDER BY event_offset", DB::text(name));
    assert_eq!(db.rows(of(name.as_str())).await?, expected.map(row));
    let plain = db.rows(of("plain")).await?;
    assert_eq!(plain.len(), 1);
    assert_eq!((plain[0][0].as_deref(), plain[0][6].as_deref()), (Some("plain"), Some(r#"{"number":7}"#)));
    let ids = db.rows("SELECT message_id FROM saga_event ORDER BY stream_name, event_offset").await?;
    let mut stored = db.events(&name).await?.unwrap();
    stored.extend(db.events(&stream("plain")).await?.unwrap());
    let stored: Vec<Row> = stored.iter().map(|event| vec![Some(event.envelope.message_id.to_string())]).collect();
    assert_eq!(ids, stored);
    Ok(())
}

async fn the_view_shows_all_other_rows_beside_a_damaged_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut fixture = Fixture::new(db).await?;
    let id = fixture.another().await?;
    let (contents, body) = fixture.stored(&id).await?;
    let others = format!("{VIEW} ORDER BY stream_name, event_offset");
    let name = stream_of(&Counter, &id).to_string();
    let shown = async |fixture: &Fixture<DB>, what: &str| -> anyhow::Result<Vec<Row>> {
        let is_other = |row: &Row| row[0].as_ref() != Some(&name) || row[2] != Some(COMMIT.to_string());
        let rows = fixture.db.rows(others.as_str()).await.map_err(|fault| fault.context(what.to_owned()))?;
        Ok(rows.into_iter().filter(is_other).collect())
    };
    let before = shown(&fixture, "nothing").await?;
    assert_eq!(before.len(), 3 + 3 + 4);
    let mut cases: Vec<String> =
        other_contents(&contents).iter().map(|other| format!("contents = {}", DB::text(other))).collect();
    let len = |value: &str| {
        let changed = contents.replace(r#""len":"#, &format!(r#""len":{value},"was":"#));
        format!("contents = {}", DB::text(&changed))
    };
    cases.extend(["null", r#""x""#, "{}", "[]", "1.5", "-5", "1e3", "2147483647"].map(len));
    let with = |from: &str, to: &str| format!("contents = {}", DB::text(&contents.replace(from, to)));
    cases.push(with(r#""len""#, r#""v":"x","len""#));
    cases.push(with(r#""len""#, r#""v":99999999999,"len""#));
    cases.push(with(r#""len""#, r#""ct":7,"len""#));
    cases.push(with(r#""len""#, r#""kind":{},"len""#));
    cases.push(format!("body = {}", DB::bytes(b"")));
    let restore = format!("contents = {}, body = {}", DB::text(&contents), DB::bytes(&body));
    for case in cases {
        fixture.change(&id, &case).await?;
        assert_eq!(shown(&fixture, &case).await?, before, "{case}");
        fixture.change(&id, &restore).await?;
    }
    assert_eq!(fixture.db.rows(others.as_str()).await?.len(), before.len() + 2);
    Ok(())
}
