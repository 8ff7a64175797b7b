use std::sync::Arc;

use super::*;

fn bucket(amount: f64, per: Duration) -> Arc<Bucket> {
    Arc::new(Bucket::new(&Profile { amount, per, invalid_per_10_min: Some(3) }))
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn no_more_goes_out_than_is_allowed() {
    let bucket = bucket(10.0, SECOND);
    let begun = Instant::now();
    for _ in 0..100 {
        bucket.acquire(1, Priority::Vital).await.unwrap();
    }
    // Ten at once, then one each tenth of a second.
    let took = begun.elapsed();
    assert!(took >= 9 * SECOND && took < 9 * SECOND + SECOND / 2, "{took:?}");
    let status = bucket.status();
    assert!(status.waits >= 89 && status.waited >= 8 * SECOND, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn the_urgent_pass_those_who_wait() {
    let bucket = bucket(10.0, SECOND);
    let mut order = Vec::new();
    let (send, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    while bucket.try_acquire(1, Priority::Vital).unwrap().is_ok() {}
    let mut tasks = Vec::new();
    for (priority, count) in
        [(Priority::Chatter, 5), (Priority::Moderation, 5), (Priority::Vital, 5)]
    {
        for n in 0..count {
            let (bucket, send) = (Arc::clone(&bucket), send.clone());
            tasks.push(tokio::spawn(async move {
                bucket.acquire(1, priority).await.unwrap();
                send.send((priority, n)).unwrap();
            }));
            // Each is in its queue before the next comes.
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    while let Ok(one) = arrived.try_recv() {
        order.push(one);
    }
    assert_eq!(order.len(), 15);
    assert!(
        order.is_sorted(),
        "the urgent first, and each in the order in which it came: {order:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn chatter_leaves_something_to_the_others() {
    let bucket = bucket(10.0, SECOND);
    let mut chatter = 0;
    while bucket.try_acquire(1, Priority::Chatter).unwrap().is_ok() {
        chatter += 1;
    }
    assert_eq!(chatter, 8);
    assert_eq!(bucket.try_acquire(2, Priority::Vital).unwrap(), Ok(()));
    assert!(bucket.try_acquire(9, Priority::Chatter).is_err(), "more than it can ever have");
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_says_is_believed() {
    let bucket = bucket(800.0, 60 * SECOND);
    bucket.learn(&[("Ratelimit-Limit", "400"), ("Ratelimit-Remaining", "5")]);
    let status = bucket.status();
    assert!(status.points <= 5.0 && (status.amount - 400.0).abs() < 1e-9, "{status:?}");
    bucket.learn(&[("retry-after", "30")]);
    let begun = Instant::now();
    bucket.acquire(1, Priority::Vital).await.unwrap();
    assert!(begun.elapsed() >= 30 * SECOND);
    // A limit that all the world shares says nothing about us.
    bucket.answered(429, &[("x-ratelimit-scope", "shared"), ("retry-after", "3600")]);
    assert_eq!(bucket.status().blocked, None);
    assert_eq!(bucket.status().invalid, 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_invalid_answers_stop_everything_for_a_while() {
    let bucket = bucket(50.0, SECOND);
    for status in [401, 403, 404, 200, 429] {
        bucket.answered(status, &[]);
    }
    assert_eq!(bucket.status().invalid, 3);
    let begun = Instant::now();
    bucket.acquire(1, Priority::Vital).await.unwrap();
    assert!(begun.elapsed() >= WINDOW, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_takes_nothing() {
    let bucket = bucket(1.0, SECOND);
    bucket.acquire(1, Priority::Vital).await.unwrap();
    let waiting = tokio::time::timeout(SECOND / 2, bucket.acquire(1, Priority::Vital));
    assert!(waiting.await.is_err());
    assert_eq!(bucket.status().waiting, 0);
    tokio::time::advance(SECOND / 2).await;
    assert_eq!(bucket.try_acquire(1, Priority::Vital).unwrap(), Ok(()));
}
