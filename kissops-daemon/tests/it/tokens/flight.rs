//! Daemons that die with an exchange under way (VLT-10).

use std::{
    io::Write as _,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use kissops_mock_provider::Secrets;
use rustix::process::Signal;

use super::{Stage, nothing_was_presented_twice};
use crate::harness::{is_alive, signal, until};

/// The most that may pass until a loss is told.
const TOLD_WITHIN: Duration = Duration::from_mins(1);

/// Has a refresh of `ann` begun, which the provider has carried out and not answered.
fn in_flight(stage: &Stage) -> UnixStream {
    stage.hold_the_next_answer();
    let mut socket = UnixStream::connect(stage.site.path("run/control.sock")).unwrap();
    let request =
        "POST /v1/tokens/mock/ann/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    until("the provider holds the answer back", || stage.mock.totals().held == 1);
    socket
}

/// One token was presented once, was replaced once, and the vault has the new one.
#[track_caller]
fn nothing_was_lost(stage: &Stage) {
    stage.until_grant("ann", "the pair is committed", |grant| grant["generation"] == 2);
    assert_eq!(stage.grant("ann")["state"], "active");
    stage.token_is_live("ann");
    let counts = stage.mock.totals().refreshes;
    assert_eq!((counts.presented, counts.committed), (1, 1), "{counts:?}");
    nothing_was_presented_twice(&stage.mock);
    assert_eq!(stage.told("token.needs_reauth").len(), 0);
    // And the new pair is good for another one.
    stage.refresh("ann");
    assert_eq!(stage.grant("ann")["generation"], 3);
}

#[test]
fn an_answer_that_comes_while_there_is_no_daemon_is_kept_for_the_next() {
    let mut stage = Stage::started("", &["ann"]);
    let _asking = in_flight(&stage);
    let exchanger = stage.site.exchanger().expect("the exchange is out of the daemon's hands");
    stage.site.kill();
    assert_eq!(stage.mock.release(), 1);
    until("the exchanger has put it away, and is done", || !is_alive(exchanger));
    stage.site.start();
    nothing_was_lost(&stage);
}

#[test]
fn an_answer_that_comes_to_the_next_daemon_is_taken_by_it() {
    let mut stage = Stage::started("", &["ann"]);
    let _asking = in_flight(&stage);
    let exchanger = stage.site.exchanger().expect("the exchange is out of the daemon's hands");
    stage.site.kill();
    stage.site.start();
    assert!(is_alive(exchanger), "it waits for the answer");
    assert_eq!(stage.mock.release(), 1);
    nothing_was_lost(&stage);
}

#[test]
fn what_is_lost_with_both_is_told_once_and_soon() {
    let mut stage = Stage::started("", &["ann", "bob"]);
    let _asking = in_flight(&stage);
    let exchanger = stage.site.exchanger().unwrap();
    stage.site.kill();
    signal(exchanger, Signal::KILL);
    until("the exchanger is gone", || !is_alive(exchanger));
    stage.mock.release();
    let begun = Instant::now();
    stage.site.start();
    let lost = stage.until_grant("ann", "it is given up", |grant| grant["state"] == "needs_reauth");
    assert!(begun.elapsed() < TOLD_WITHIN, "{:?}", begun.elapsed());
    assert!(lost["help"].as_str().unwrap().contains("token authorize mock ann"), "{lost}");
    let told = stage.site.until_event("", "token.needs_reauth");
    assert!(told.contains("mock/ann"), "{told}");
    assert_eq!(stage.grant("bob")["state"], "active");
    // A used token is not presented again, and the next daemon has nothing new to tell.
    stage.site.kill();
    stage.site.start();
    stage.refresh("bob");
    assert_eq!(stage.grant("ann")["state"], "needs_reauth");
    assert_eq!(stage.told("token.needs_reauth").len(), 1);
    let ann = stage.mock.account("ann", Secrets::Hidden).unwrap();
    assert_eq!(ann.grants[0].counts.replays, 0, "{ann:?}");
    nothing_was_presented_twice(&stage.mock);
}

/// The exchange that one daemon has under way is none of another's that was started by mistake.
#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    let stage = Stage::started("", &["ann"]);
    let _asking = in_flight(&stage);
    let second = stage.site.command().output().unwrap();
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    assert_eq!(stage.mock.release(), 1);
    nothing_was_lost(&stage);
}
