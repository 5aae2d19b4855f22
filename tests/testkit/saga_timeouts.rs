//! The clock, and the timeouts that it makes due.

use std::time::Duration;

use sagastore::Timestamp;
use sagastore::testkit::{ExpectedTimeout, SagaTest, TEST_START};

use crate::order::{Order, OrderCommand, OrderEvent, OrderMessage, REMIND_AFTER, complaint, place, placed};

fn order() -> SagaTest<Order> {
    SagaTest::new(Order::default()).when(place())
}

fn after_start(seconds: u64) -> Timestamp {
    Timestamp::from_micros(TEST_START.as_micros() + i64::try_from(seconds).unwrap() * 1_000_000)
}

#[test]
fn a_duration_and_the_time_it_ends_are_one() {
    let _ = order().expect_timeouts([
        ExpectedTimeout::new("payment", after_start(3600), OrderMessage::PaymentLate),
        ExpectedTimeout::new("reminder", REMIND_AFTER, OrderMessage::Remind),
    ]);
}

#[test]
fn other_timeouts_than_expected_are_shown_beside_them() {
    let text = complaint(|| {
        let _ = order().expect_timeouts([("payment", REMIND_AFTER, OrderMessage::PaymentLate)]);
    });
    assert_eq!(
        text,
        "the saga scheduled other timeouts than expected; the first difference is in number 1\n  expected:\n  \
         > 1. \"payment\" at 2020-01-01T00:10:00Z: PaymentLate v1 \"PaymentLate\"\n  came:\n  \
         > 1. \"payment\" at 2020-01-01T01:00:00Z: PaymentLate v1 \"PaymentLate\"\n    \
         2. \"reminder\" at 2020-01-01T00:10:00Z: Remind v1 \"Remind\"\n"
    );
    assert!(complaint(|| drop(order().expect_no_timeouts())).contains("other timeouts"));
}

#[test]
fn a_timeout_is_delivered_by_name_and_at_its_time() {
    let test = order().when_timeout("reminder").expect_events([OrderEvent::Reminded]);
    assert_eq!(test.now(), after_start(600));
    let test = test.expect_timeouts([("reminder", REMIND_AFTER, OrderMessage::Remind)]);
    let test = test.expect_pending(["reminder", "payment"]).when_timeout("payment").expect_completed();
    assert_eq!(test.now(), after_start(3600));
    let causes: Vec<_> = test.messages().iter().map(|message| message.causation_id.to_string()).collect();
    assert_eq!(causes, ["00000000-0000-0000-0000-000000000004"]);
}

#[test]
fn a_timeout_that_is_not_pending_cannot_be_delivered() {
    let text = complaint(|| drop(order().when_timeout("no such")));
    assert_eq!(text, "no timeout \"no such\" is pending; pending are [\"payment\", \"reminder\"]");
    let paid = || order().when(OrderMessage::Pay { cents: 995 });
    assert_eq!(complaint(|| drop(paid().when_timeout("payment"))), "no timeout \"payment\" is pending; pending are []");
    assert_eq!(
        complaint(|| drop(paid().expect_cancelled(["payment"]))),
        "the saga cancelled the timeouts [\"payment\", \"reminder\"], expected were [\"payment\"]"
    );
    assert_eq!(
        complaint(|| drop(order().expect_pending(["payment"]))),
        "the timeouts [\"payment\", \"reminder\"] are pending, expected were [\"payment\"]"
    );
}

#[test]
fn moving_the_clock_delivers_what_becomes_due_in_order() {
    let test = order().advance(Duration::from_secs(599)).expect_nothing().advance(Duration::from_secs(1));
    let test = test
        .expect_events([OrderEvent::Reminded])
        .expect_commands([OrderCommand::SendMail { text: "please pay".to_owned() }]);
    // Reminded after 20, 30, 40 and 50 minutes; after 60, the payment was scheduled first.
    let test = test.advance(Duration::from_secs(4000));
    let reminded = std::iter::repeat_n(OrderEvent::Reminded, 4);
    let test = test.expect_events(reminded.chain([OrderEvent::Cancelled])).expect_completed();
    assert_eq!((test.now(), test.data().reminders), (after_start(4600), 5));
    let times: Vec<_> = test.messages().iter().map(|message| message.created_at).collect();
    assert_eq!((times[0], times[times.len() - 1]), (after_start(1200), after_start(3600)));
}

#[test]
fn a_failure_on_the_way_ends_the_advance_and_keeps_the_timeout() {
    let wrong = OrderMessage::Pay { cents: 1 };
    let test = order().given_timeouts([("wrong", Duration::from_secs(700), wrong)]);
    let test = test.advance(Duration::from_secs(5000)).expect_error("1 cents are not");
    assert_eq!(test.now(), after_start(700));
    let _ = test.expect_pending(["payment", "reminder", "wrong"]);
}

#[test]
fn all_are_cancelled_at_once_and_on_completion_if_the_saga_says_so() {
    let _ = order().when(OrderMessage::Cancel).expect_all_cancelled().expect_pending::<&str>([]);
    assert_eq!(complaint(|| drop(order().expect_all_cancelled())), "the saga did not cancel all timeouts");
    let text = complaint(|| drop(order().when(OrderMessage::Cancel).expect_cancelled(["payment"])));
    assert!(text.starts_with("the saga cancelled all timeouts"), "{text}");

    let complete = |cancels_timeouts: bool| {
        let test = SagaTest::new(Order { cancels_timeouts }).when(place()).when_timeout("payment");
        test.expect_completed()
    };
    let _ = complete(true).expect_pending::<&str>([]);
    let test = complete(false).expect_pending(["reminder"]).when_timeout("reminder").expect_passed_over();
    let _ = test.expect_pending::<&str>([]);
}

#[test]
fn timeouts_can_be_given_and_start_nothing_by_themselves() {
    let given = [("reminder", Duration::from_secs(5), OrderMessage::Remind)];
    let test = SagaTest::new(Order::default()).given([placed()]).given_timeouts(given.clone());
    let _ = test.advance(Duration::from_secs(5)).expect_events([OrderEvent::Reminded]);
    let test = SagaTest::new(Order::default()).given_timeouts(given);
    let _ = test.when_timeout("reminder").expect_not_found();
    // Nor one whose message would, if it came as another.
    let test = SagaTest::new(Order::default()).given_timeouts([("start", Duration::from_secs(5), place())]);
    let _ = test.when_timeout("start").expect_not_found().when(place()).expect_events([placed()]);
}

/// It was delivered before, which no dispatcher does.
#[test]
fn one_that_was_scheduled_for_the_past_comes_after_those_that_were_due_before_it_was_scheduled() {
    let test = SagaTest::new(Order::default()).given([placed()]);
    let test = test.given_timeouts([("reminder", Duration::from_secs(5), OrderMessage::Remind)]).at(after_start(10));
    let test = test.given_timeouts([ExpectedTimeout::new("payment", after_start(3), OrderMessage::PaymentLate)]);
    let _ = test.advance(Duration::ZERO).expect_events([OrderEvent::Reminded, OrderEvent::Cancelled]);
}

#[test]
fn the_clock_is_set_but_not_back() {
    let early = Timestamp::from_micros(5);
    let test = SagaTest::new(Order::default()).at(early).when(place());
    assert_eq!(test.messages()[0].created_at, early);
    let test = test.at(after_start(0)).expect_pending(["payment", "reminder"]);
    let text = complaint(|| drop(test.at(early)));
    assert_eq!(text, "the clock shows 2020-01-01T00:00:00Z and cannot go back to 1970-01-01T00:00:00.000005Z");
    let _ = order().at(after_start(9000)).when_timeout("payment").expect_events([OrderEvent::Cancelled]);
}

#[test]
fn timeouts_without_end_are_told() {
    let endless = Duration::from_secs(600 * u64::from(sagastore::testkit::MAX_DELIVERIES) + 600);
    let test = SagaTest::new(Order::default()).given([placed()]).given_timeouts([(
        "reminder",
        Duration::ZERO,
        OrderMessage::Remind,
    )]);
    let text = complaint(|| drop(test.advance(endless)));
    assert!(text.contains("1000 timeouts were delivered and there are more"), "{text}");
}
