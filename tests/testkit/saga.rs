//! What is expected of messages, state and outcome: met where it is so, and missed with a text that shows where.

use sagastore::testkit::{ExpectedCommand, SagaTest, TEST_START};
use sagastore::{InstanceId, Limits, Revision, StoredForm};
use serde_json::json;

use crate::order::{
    Order, OrderCommand, OrderData, OrderEvent, OrderMessage, PAY_WITHIN, REMIND_AFTER, WrongAmount, complaint, place,
    placed,
};

fn order() -> SagaTest<Order> {
    SagaTest::new(Order::default())
}

fn ship() -> OrderCommand {
    OrderCommand::Ship { item: "book".to_owned() }
}

#[test]
fn a_whole_story_is_told_in_one_chain() {
    let data = OrderData { item: "book".to_owned(), cents: 995, ..OrderData::default() };
    let _ = order()
        .when(place())
        .expect_events([placed()])
        .expect_commands([ExpectedCommand::new(OrderCommand::TakePayment { cents: 995 }).to("billing")])
        .expect_timeouts([
            ("payment", PAY_WITHIN, OrderMessage::PaymentLate),
            ("reminder", REMIND_AFTER, OrderMessage::Remind),
        ])
        .expect_state_eq(&data)
        .expect_not_completed()
        .when(OrderMessage::Pay { cents: 995 })
        .expect_events([OrderEvent::Paid])
        .expect_commands([ship()])
        .expect_cancelled(["payment", "reminder"])
        .expect_no_timeouts()
        .expect_pending::<&str>([])
        .expect_state(|data| assert!(data.paid))
        .expect_completed()
        .when(OrderMessage::Cancel)
        .expect_passed_over();
}

#[test]
fn other_events_than_expected_are_shown_beside_them() {
    let text = complaint(|| {
        let other = OrderEvent::Placed { item: "book".to_owned(), cents: 990 };
        let _ = order().when(place()).expect_events([other]);
    });
    assert_eq!(
        text,
        "the saga published other events than expected; the first difference is in number 1\n  expected:\n  \
         > 1. Placed v2 {\"Placed\":{\"cents\":990,\"item\":\"book\"}}\n  came:\n  \
         > 1. Placed v2 {\"Placed\":{\"cents\":995,\"item\":\"book\"}}\n  Placed.cents: expected 990, came 995\n"
    );
}

#[test]
fn missing_and_surplus_messages_are_shown_as_nothing() {
    let missing = complaint(|| drop(order().when(place()).expect_events([placed(), OrderEvent::Paid])));
    assert_eq!(
        missing,
        "the saga published other events than expected; the first difference is in number 2\n  expected:\n    \
         1. Placed v2 {\"Placed\":{\"cents\":995,\"item\":\"book\"}}\n  > 2. Paid v1 \"Paid\"\n  came:\n    \
         1. Placed v2 {\"Placed\":{\"cents\":995,\"item\":\"book\"}}\n  > 2. (nothing)\n"
    );
    let surplus = complaint(|| drop(order().when(place()).expect_no_commands()));
    assert_eq!(
        surplus,
        "the saga sent other commands than expected; the first difference is in number 1\n  expected:\n  \
         > 1. (nothing)\n  came:\n  > 1. TakePayment v1 {\"TakePayment\":{\"cents\":995}} to \"billing\"\n"
    );
    assert!(complaint(|| drop(order().when(place()).expect_no_events())).contains("other events"));
}

#[test]
fn a_destination_counts_where_it_is_expected() {
    let payment = || OrderCommand::TakePayment { cents: 995 };
    let _ = order().when(place()).expect_commands([payment()]);
    let text = complaint(|| drop(order().when(place()).expect_commands([ExpectedCommand::new(payment()).to("bank")])));
    assert!(text.contains("> 1. TakePayment v1 {\"TakePayment\":{\"cents\":995}} to \"bank\"\n"), "{text}");
    assert!(text.contains("> 1. TakePayment v1 {\"TakePayment\":{\"cents\":995}} to \"billing\"\n"), "{text}");
}

#[test]
fn another_state_is_shown_with_the_first_difference() {
    let expected = OrderData { item: "book".to_owned(), cents: 1, ..OrderData::default() };
    let text = complaint(|| drop(order().given([placed()]).expect_state_eq(&expected)));
    assert!(text.starts_with("the state is another than expected\n  expected:\n    1. OrderData {\n"), "{text}");
    assert!(text.contains("  > 3.     cents: 1,\n") && text.contains("  > 3.     cents: 995,\n"), "{text}");
    assert!(complaint(|| drop(order().expect_state(|data| assert!(data.paid, "it is not paid")))) == "it is not paid");
}

#[test]
fn what_is_not_there_is_not_found_and_nothing_else_is() {
    let _ = order().when(OrderMessage::Cancel).expect_not_found().expect_state_eq(&OrderData::default());
    let text = complaint(|| drop(order().when(place()).expect_not_found()));
    assert_eq!(text, "it was expected that no instance is found, but the message was handled");
    let text = complaint(|| drop(order().when(OrderMessage::Cancel).expect_nothing()));
    assert!(text.starts_with("this was not expected: no instance was found"), "{text}");
}

#[test]
fn what_is_completed_takes_no_messages() {
    let _ = order().given_completed().expect_completed().when(place()).expect_passed_over();
    let _ = order().given([placed(), OrderEvent::Paid]).when(OrderMessage::Cancel).expect_passed_over();
    assert_eq!(complaint(|| drop(order().given([placed()]).expect_completed())), "the instance is not completed");
    assert_eq!(complaint(|| drop(order().given_completed().expect_not_completed())), "the instance is completed");
    let text = complaint(|| drop(order().given([placed()]).when(OrderMessage::Cancel).expect_passed_over()));
    assert_eq!(text, "it was expected that the message is passed over, but the message was handled");
}

#[test]
fn nothing_means_nothing() {
    let test = order().given([placed()]).when(OrderMessage::Ignore).expect_nothing();
    assert_eq!(test.revision(), Revision::of(1));
    let text = complaint(|| drop(order().given([placed()]).when(OrderMessage::Cancel).expect_nothing()));
    assert_eq!(
        text,
        "nothing was expected, and this came:\n  Event Cancelled v1 \"Cancelled\"\n  CancelAll\n  it completed the \
         instance\n"
    );
    let text = complaint(|| drop(order().when(place()).expect_nothing()));
    assert!(
        text.contains("  Command TakePayment v1 ") && text.contains("  Timeout \"payment\" PaymentLate v1"),
        "{text}"
    );
}

#[test]
fn an_error_is_told_and_stores_nothing() {
    let wrong = || order().given([placed()]).when(OrderMessage::Pay { cents: 1 });
    let test = wrong().expect_error("1 cents are not").expect_error_as(|error: &WrongAmount| error.0 == 1);
    assert_eq!((test.revision(), test.messages().len()), (Revision::of(1), 0));
    let _ = test.when(OrderMessage::Pay { cents: 995 }).expect_events([OrderEvent::Paid]);
    let text = complaint(|| drop(wrong().expect_error("no such text")));
    assert_eq!(
        text,
        "an error with \"no such text\" was expected, but handling the message failed: 1 cents are not what is owed"
    );
    let text = complaint(|| drop(wrong().expect_error_as(|_: &sagastore::Error| true)));
    assert!(text.starts_with("a certain sagastore::error::Error was expected, but"), "{text}");
    assert!(complaint(|| drop(order().when(place()).expect_error(""))).ends_with("but the message was handled"));
}

#[test]
fn an_error_that_nobody_expected_fails_at_the_next_step_and_at_the_end() {
    let wrong = || order().given([placed()]).when(OrderMessage::Pay { cents: 1 });
    let sentence = "this was not expected: handling the message failed: 1 cents are not what is owed";
    assert_eq!(complaint(|| drop(wrong())), sentence);
    assert_eq!(complaint(|| drop(wrong().when(OrderMessage::Ignore))), sentence);
    assert_eq!(complaint(|| drop(wrong().expect_events([]))), sentence);
    assert_eq!(complaint(|| drop(wrong().expect_nothing())), sentence);
    assert_eq!(complaint(|| drop(wrong().expect_not_completed())), sentence);
}

#[test]
fn nothing_can_be_expected_before_anything_happened() {
    let text = complaint(|| drop(order().given([placed()]).expect_events([placed()])));
    assert_eq!(text, "nothing has happened yet; say what does by when");
}

#[test]
fn every_run_has_the_same_ids_times_and_causes() {
    let run = || order().when(place()).messages().to_vec();
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    assert_eq!(first[0].message_id.to_string(), "00000000-0000-0000-0000-000000000002");
    assert_eq!(first[0].causation_id.to_string(), "00000000-0000-0000-0000-000000000001");
    assert!(first.iter().all(|message| message.created_at == TEST_START));
}

#[test]
fn units_of_work_by_hand_are_tested_too() {
    let test = order()
        .with_instance_id(&InstanceId::new("o-7").unwrap())
        .given([placed()])
        .when_unit(|unit| {
            assert_eq!(unit.instance().instance_id.as_str(), "o-7");
            unit.publish(OrderEvent::Reminded).map(drop)
        })
        .expect_events([OrderEvent::Reminded])
        .when_unit(|_| Ok::<(), sagastore::Error>(()))
        .expect_nothing()
        .when_unit(|unit| {
            unit.complete();
            Ok::<(), sagastore::Error>(())
        })
        .expect_completed();
    assert_eq!(test.revision(), Revision::of(2));
    let _ = test.when_unit(|unit| unit.publish(OrderEvent::Paid).map(drop)).expect_error("takes no further events");
}

#[test]
fn limits_hold_as_they_do_in_a_database() {
    let limits = Limits { message_bytes: 10, ..Limits::default() };
    let _ = order().with_limits(limits).when(place()).expect_error("over the limit of 10");
}

#[test]
fn messages_and_events_of_older_versions_are_brought_up_to_date() {
    let old = |euros: u32| StoredForm::json("Placed", 1, &json!({"Placed": {"item": "book", "euros": euros}}));
    let _ = order().given_stored([old(9)]).expect_state(|data| assert_eq!(data.cents, 900));
    let unknown = || order().given_stored([StoredForm::json("Lost", 1, &json!(1))]).when(OrderMessage::Ignore);
    let _ = unknown().expect_error("unknown type \"Lost\" version 1");
    assert!(complaint(|| drop(unknown())).contains("unknown type"));
    let bad = order().given_stored([StoredForm::json("Placed", 2, &json!({"Placed": 1}))]);
    let _ = bad.when(OrderMessage::Ignore).expect_error("does not decode");
    let _ = order()
        .given([placed()])
        .when_stored(StoredForm::json("Pay", 1, &json!({"Pay": {"cents": 995}})))
        .expect_completed();
    let foreign = order().given([placed()]).when_stored(StoredForm::json("Pay", 2, &json!({})));
    let _ = foreign.expect_error("does not handle messages of type \"Pay\" version 2");
}
