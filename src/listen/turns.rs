//! Turns for the work of handshakes, so that a flood of them does not stand between a partner and its answer.
//!
//! A step of a handshake takes as long as many steps of requests, and a hundred of them in a row would be waited for.
//! In: the future of a handshake. Out: its outcome, polled in turn: on each thread one step, and between two of them
//! whatever else is ready. Must never: hold a turn while a client is waited for.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

pub(super) struct Turns(Semaphore);

impl Turns {
    /// As many at a time as there are threads.
    pub(super) fn new(threads: usize) -> Self {
        Turns(Semaphore::new(threads.max(1)))
    }

    pub(super) async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Poll::Ready(outcome) = self.step(work.as_mut()).await {
                return outcome;
            }
            woken().await;
        }
    }

    /// The same; `None` once a client has been waited for so long in all, and then `enough` returns. What it waits for its
    /// turns is not the client's time.
    pub(super) async fn take_within<T, F: Future>(
        &self,
        work: impl Future<Output = T>,
        limit: Duration,
        enough: impl Fn() -> F,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut left = limit;
        loop {
            if let Poll::Ready(outcome) = self.step(work.as_mut()).await {
                return Some(outcome);
            }
            let began = Instant::now();
            let late = async {
                // A timer that is over fires once more, and what it wakes would not be the client.
                if !left.is_zero() {
                    sleep(left).await;
                }
                enough().await;
            };
            tokio::select! {
                biased;
                () = late => return None,
                () = woken() => left = left.saturating_sub(began.elapsed()),
            }
        }
    }

    async fn step<F: Future>(&self, work: Pin<&mut F>) -> Poll<F::Output> {
        // Never closed, and a handshake without a turn is better than none.
        let _turn = self.0.acquire().await.ok();
        // Behind all that is ready: a turn that was just given back is taken at once otherwise.
        yield_now().await;
        let mut work = work;
        poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
    }
}

/// Returns when the task is woken next.
async fn woken() {
    let mut asleep = false;
    poll_fn(|_| if std::mem::replace(&mut asleep, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    /// One thread, one order: deterministic.
    #[tokio::test]
    async fn what_is_ready_goes_between_two_steps() {
        let (turns, order) = (Arc::new(Turns::new(1)), Arc::new(Mutex::new(String::new())));
        let shakes: Vec<_> = (0..3)
            .map(|_| {
                let (turns, order) = (turns.clone(), order.clone());
                let work = async move {
                    order.lock().unwrap().push('h');
                    yield_now().await;
                    order.lock().unwrap().push('h');
                };
                tokio::spawn(async move { turns.take(work).await })
            })
            .collect();
        // Two tasks, one of which is always ready: as a request is, from one message to the next.
        let (there, back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let requests: Vec<_> = [(there.clone(), back.clone()), (back, there.clone())]
            .map(|(mine, theirs)| {
                let order = order.clone();
                tokio::spawn(async move {
                    for _ in 0..300 {
                        mine.notified().await;
                        order.lock().unwrap().push('r');
                        theirs.notify_one();
                    }
                })
            })
            .into();
        there.notify_one();
        for task in shakes {
            task.await.unwrap();
        }
        for task in requests {
            task.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order.matches('h').count(), 6, "{order}");
        let meanwhile = order.trim_end_matches('h');
        assert!(meanwhile.contains('h') && !meanwhile.contains("hh"), "{order}");
    }

    #[tokio::test]
    async fn one_who_waits_for_a_client_keeps_nobody_waiting() {
        let turns = Turns::new(1);
        let (send, receive) = tokio::sync::oneshot::channel::<u8>();
        let (first, second) = tokio::join!(turns.take(receive), turns.take(async { send.send(7) }));
        assert_eq!((first, second), (Ok(7), Ok(())));
    }

    /// Who waits for its turn for longer than a client may take still gets it.
    #[tokio::test]
    async fn waiting_for_a_turn_is_not_the_client_s_time() {
        const LIMIT: Duration = Duration::from_millis(20);
        let turns = Arc::new(Turns::new(1));
        let held = turns.0.acquire().await.unwrap();
        let waits = turns.clone();
        let shake = tokio::spawn(async move { waits.take_within(async { 7 }, LIMIT, || std::future::ready(())).await });
        sleep(LIMIT * 3).await;
        assert!(!shake.is_finished());
        drop(held);
        assert_eq!(shake.await.unwrap(), Some(7));
        // A client that says nothing makes way, once somebody waits.
        let silent = || std::future::pending::<()>();
        assert_eq!(turns.take_within(silent(), LIMIT, || std::future::ready(())).await, None);
        let mut polls = 0;
        let counted = poll_fn(|_| {
            polls += 1;
            Poll::<()>::Pending
        });
        let nobody = turns.take_within(counted, LIMIT, std::future::pending::<()>);
        assert!(tokio::time::timeout(LIMIT * 3, nobody).await.is_err());
        assert!(polls <= 3, "{polls}: nothing turns while a client is silent");
    }
}
