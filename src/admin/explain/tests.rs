use super::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::sleep;

#[tokio::test]
async fn work_whose_caller_hangs_up_keeps_the_others_waiting() {
    static TURNS: Turns = Turns::new(Duration::from_secs(60));
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let held = Arc::new(Barrier::new(2));
    let work = |held: Option<Arc<Barrier>>| {
        move || {
            STARTED.fetch_add(1, Ordering::SeqCst);
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            held.map(|held| held.wait());
            NOW.fetch_sub(1, Ordering::SeqCst);
        }
    };
    // One is at work after its caller is gone.
    let calling = tokio::spawn(TURNS.alone(work(Some(held.clone()))));
    while STARTED.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    calling.abort();
    // Those that come and go meanwhile do not begin.
    for _ in 0..20 {
        assert!(timeout(Duration::from_millis(5), TURNS.alone(work(None))).await.is_err());
    }
    assert_eq!((STARTED.load(Ordering::SeqCst), NOW.load(Ordering::SeqCst)), (1, 1));
    held.wait();
    assert_eq!(TURNS.alone(work(None)).await.unwrap(), Some(()));
    assert_eq!((STARTED.load(Ordering::SeqCst), MOST.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn few_wait_and_not_for_long() {
    static TURNS: Turns = Turns::new(Duration::from_millis(500));
    let held = Arc::new(Barrier::new(2));
    let hold = held.clone();
    let working = tokio::spawn(TURNS.alone(move || hold.wait().is_leader()));
    while TURNS.turn.available_permits() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let waiting: Vec<_> = (0..WAITING).map(|_| tokio::spawn(TURNS.alone(|| ()))).collect();
    while TURNS.waiting.available_permits() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let asked = Instant::now();
    assert_eq!(TURNS.alone(|| ()).await.unwrap(), None);
    assert!(asked.elapsed() < Duration::from_millis(400), "it does not wait");
    for one in waiting {
        assert_eq!(one.await.unwrap().unwrap(), None);
    }
    held.wait();
    working.await.unwrap().unwrap();
    assert_eq!(TURNS.alone(|| ()).await.unwrap(), Some(()));
    // A panic gives the turn back as well.
    assert!(TURNS.alone(|| -> () { panic!("as it should") }).await.is_err());
    assert_eq!(TURNS.alone(|| ()).await.unwrap(), Some(()));
}
