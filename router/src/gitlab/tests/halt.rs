//! Bodies that do not get on.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;

use crate::gitlab::body::{ANSWER, Download, HALT, Waits, upload};

const ALMOST: Duration = Duration::from_secs(299);

fn channel() -> (mpsc::Sender<&'static str>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::from_stream(ReceiverStream::new(receiver).map(|text| Ok::<_, std::io::Error>(Bytes::from(text)))))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stops_is_cut_off_and_a_slow_one_is_not() {
    let (sender, body) = channel();
    let mut body = Body::new(Download::new(body, false));
    for _ in 0..5 {
        let sending = async {
            tokio::time::sleep(ALMOST).await;
            sender.send("a").await.unwrap();
        };
        let (frame, ()) = tokio::join!(body.frame(), sending);
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "a");
    }
    let before = Instant::now();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(before.elapsed(), HALT);
    assert!(error.to_string().contains("for 5 minutes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stops_is_cut_off_whoever_stops_it() {
    // The client sends nothing more.
    let (sender, body) = channel();
    let (mut body, pace) = upload(body);
    for _ in 0..3 {
        tokio::time::sleep(ALMOST).await;
        sender.send("a").await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
    }
    let before = Instant::now();
    let reading = async {
        let _ = body.frame().await;
    };
    tokio::select! {
        () = reading => panic!("nothing was sent"),
        who = pace.halted() => assert_eq!((who, before.elapsed()), (Waits::Client, HALT)),
    }
    // GitLab takes nothing more.
    sender.send("b").await.unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    let before = Instant::now();
    assert_eq!((pace.halted().await, before.elapsed()), (Waits::GitLab, HALT));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_longer() {
    // From the beginning where there is no body, else from its end, or from when GitLab does not want it any more.
    let (_empty, pace) = upload(Body::empty());
    let before = Instant::now();
    assert_eq!((pace.halted().await, before.elapsed()), (Waits::Answer, ANSWER));

    let (body, pace) = upload(Body::from("all"));
    tokio::time::sleep(ALMOST).await;
    body.collect().await.unwrap();
    let before = Instant::now();
    assert_eq!((pace.halted().await, before.elapsed()), (Waits::Answer, ANSWER));

    let (_sender, body) = channel();
    let (body, pace) = upload(body);
    tokio::time::sleep(ALMOST).await;
    drop(body);
    let before = Instant::now();
    assert_eq!((pace.halted().await, before.elapsed()), (Waits::Answer, ANSWER));
}

#[test]
fn a_body_keeps_what_is_known_of_its_length() {
    let (body, _) = upload(Body::from("four"));
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
    let body = Download::new(Body::from("four"), false);
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
    let silent = Download::new(Body::empty(), true);
    assert_eq!((silent.size_hint().exact(), silent.is_end_stream()), (None, true));
}
