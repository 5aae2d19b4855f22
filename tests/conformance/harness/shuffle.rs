//! Tasks that go on in an order which a seed decides.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use fastrand::Rng;

/// One time in so many all tasks wait, and what runs beside them goes on: the writer of groups, the database's thread.
const PAUSES: u32 = 4;

/// Whether a task has been woken, and who polls all of them.
struct Woken {
    woken: AtomicBool,
    all: Arc<Mutex<Waker>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.all.lock().unwrap().wake_by_ref();
    }
}

struct Task<F: Future> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
}

/// Runs tasks to their ends; what they give is in no order. Of those that can go on, a random one does: not the one
/// that was woken first, as in a runtime. What wakes them comes from the database's threads, whose order no seed decides.
pub(crate) async fn shuffled<F: Future>(mut random: Rng, futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let all = Arc::new(Mutex::new(Waker::noop().clone()));
    let woken = || Arc::new(Woken { woken: AtomicBool::new(true), all: Arc::clone(&all) });
    let tasks = futures.into_iter().map(|future| Task { future: Box::pin(future), woken: woken() });
    let (mut tasks, mut outputs) = (tasks.collect::<Vec<_>>(), Vec::new());
    poll_fn(|context| {
        all.lock().unwrap().clone_from(context.waker());
        poll(&mut random, &mut tasks, &mut outputs, context)
    })
    .await;
    outputs
}

fn poll<F: Future>(
    random: &mut Rng,
    tasks: &mut Vec<Task<F>>,
    outputs: &mut Vec<F::Output>,
    context: &Context<'_>,
) -> Poll<()> {
    while !tasks.is_empty() {
        let ready: Vec<_> = (0..tasks.len()).filter(|at| tasks[*at].woken.woken.load(Ordering::SeqCst)).collect();
        let Some(&chosen) = random.choice(&ready) else { return Poll::Pending };
        if random.u32(0..PAUSES) == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let task = &mut tasks[chosen];
        task.woken.woken.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&task.woken));
        if let Poll::Ready(output) = task.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            outputs.push(output);
            drop(tasks.swap_remove(chosen));
        }
    }
    Poll::Ready(())
}
