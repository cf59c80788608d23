//! Jobs that get nowhere: three rules, with their exact times.

use super::{super::*, *};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

#[test]
fn without_a_runner_that_could_ever_take_it_a_job_is_dropped_after_exactly_an_hour() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    world.after_ms(HOUR * 1000 - 1);
    assert_eq!(world.state(&job), JobState::Admitted);
    world.after_ms(1);
    assert_eq!(world.state(&job), JobState::Dropped);
    assert_eq!(world.reason(&job), "stuck: for 1 h no runner was online that could ever take it");
}

#[test]
fn a_runner_that_was_there_meanwhile_begins_the_hour_anew() {
    let mut world = World::new(chains(vec![]));
    let other = runner("other", &["x"], RunnerOwner::Instance, false);
    let job = world.admitted();
    world.after(HOUR - 10);
    let useless = world.attach(&other, 1, vec![]);
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.after(1);
    world.detach(session);
    world.after(HOUR - 1);
    assert_eq!(world.state(&job), JobState::Admitted);
    world.after(1);
    assert_eq!(world.state(&job), JobState::Dropped, "the other one could not take it");
    let _ = useless;
}

#[test]
fn a_runner_that_is_there_but_takes_nothing_keeps_a_job_from_being_dropped_within_the_hour() {
    let mut world = World::new(chains(vec![]));
    world.careful = false;
    let session = world.attach(&any_runner("r"), 1, vec![]);
    let job = world.admitted();
    world.alive(&[session], 2 * HOUR);
    assert_eq!(world.state(&job), JobState::Admitted);
}

#[test]
fn each_job_has_an_hour_of_its_own() {
    let mut world = World::new(chains(vec![]));
    let first = world.admitted();
    world.after(600);
    let second = world.admitted();
    world.after(HOUR - 600);
    assert_eq!((world.state(&first), world.state(&second)), (JobState::Dropped, JobState::Admitted));
    world.after(599);
    assert_eq!(world.state(&second), JobState::Admitted);
    world.after(1);
    assert_eq!(world.state(&second), JobState::Dropped);
}

#[test]
fn a_job_behind_one_that_came_back_is_dropped_in_its_own_time() {
    let mut world = World::new(chains(vec![]));
    let first = world.admitted();
    let session = world.ready(&any_runner("r"), 1);
    let second = world.admitted();
    world.detach(session);
    world.after(45);
    assert_eq!(world.state(&first), JobState::Admitted, "its runner was lost");
    let waited = world.scheduler.queue(world.now()).oldest_wait_seconds;
    assert_eq!(waited, Some(45), "the second has waited since it was submitted");
    world.after(HOUR - 45);
    assert_eq!((world.state(&first), world.state(&second)), (JobState::Admitted, JobState::Dropped));
    world.after(45);
    assert_eq!(world.state(&first), JobState::Dropped);
}

#[test]
fn a_job_waits_a_day_at_most() {
    let mut world = World::patient(chains(vec![]));
    world.careful = false;
    let asked = world.submit(|_| {});
    world.after(10);
    let session = world.attach(&any_runner("r"), 1, vec![]);
    let job = world.admitted();
    world.hold_out(session, DAY - 10);
    assert_eq!(
        (world.state(&asked), world.state(&job)),
        (JobState::Dropped, JobState::Admitted),
        "also one in routing"
    );
    world.after_ms(9_999);
    assert_eq!(world.state(&job), JobState::Admitted);
    world.after_ms(1);
    assert_eq!(world.state(&job), JobState::Dropped);
    assert_eq!(world.reason(&job), "stuck: no runner took it within 24 h");
}

fn running(world: &mut World) -> (Session, JobId, Lease) {
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    (session, job, lease)
}

#[test]
fn a_running_job_without_a_sign_of_life_is_dropped_after_exactly_half_an_hour() {
    let mut world = World::new(chains(vec![]));
    let (session, job, lease) = running(&mut world);
    world.alive(&[session], 30 * 60 - 1);
    world.after_ms(999);
    assert_eq!(world.state(&job), JobState::Running, "that its runner is heard is no sign of life of the job");
    world.after_ms(1);
    assert_eq!(world.state(&job), JobState::Dropped);
    assert_eq!(world.reason(&job), "stuck: running for 30 min without a sign of life");
    assert_eq!(world.stopped(session, &job).len(), 1, "its runner is told");
    world.says(session, RunnerEvent::Finished(job.clone(), lease, success()));
    assert_eq!(world.state(&job), JobState::Dropped);
}

#[test]
fn a_job_that_its_runner_holds_and_does_not_start_goes_elsewhere_after_exactly_half_an_hour() {
    let mut world = World::new(chains(vec![]));
    let holds = world.ready(&any_runner("holds"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.alive(&[holds], 30 * 60 - 1);
    world.after_ms(999);
    assert_eq!(world.state(&job), JobState::Assigned);
    world.after_ms(1);
    assert_eq!(world.state(&job), JobState::Admitted);
    assert_eq!(world.reason(&job), "not started within 30 min by runner holds");
    assert_eq!(world.stopped(holds, &job).len(), 1, "its runner is told");
    let other = world.ready(&any_runner("other"), 1);
    assert_eq!(world.state(&job), JobState::Routing, "its decision is too old by now");
    world.decide(&job, Conclusion::Admitted, None);
    assert_ne!(world.lease(&job), lease, "another one has it");
    world.says(holds, RunnerEvent::Started(job.clone(), lease));
    assert_eq!(world.state(&job), JobState::Assigned, "the first one's word counts no more");
    world.runs(other, &job);
    assert_eq!(world.state(&job), JobState::Success);
}

#[test]
fn a_job_that_was_accepted_has_half_an_hour_from_then() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    world.alive(&[session], 29 * 60);
    world.says(session, RunnerEvent::Accepted(job.clone(), world.lease(&job)));
    world.alive(&[session], 29 * 60);
    assert_eq!(world.state(&job), JobState::Assigned);
}

#[test]
fn output_is_a_sign_of_life() {
    let mut world = World::new(chains(vec![]));
    let (session, job, lease) = running(&mut world);
    for event in [RunnerEvent::Output(job.clone(), lease), RunnerEvent::Accepted(job.clone(), lease)] {
        world.alive(&[session], 29 * 60);
        world.says(session, event);
    }
    world.alive(&[session], 30 * 60 - 1);
    assert_eq!(world.state(&job), JobState::Running);
    world.alive(&[session], 1);
    assert_eq!(world.state(&job), JobState::Dropped);
}

#[test]
fn output_under_an_old_lease_or_of_another_runner_is_no_sign_of_life() {
    let mut world = World::new(chains(vec![]));
    let (session, job, lease) = running(&mut world);
    let other = world.attach(&any_runner("other"), 1, vec![]);
    for _ in 0..30 {
        world.alive(&[session, other], 60);
        world.says(other, RunnerEvent::Output(job.clone(), lease));
        world.says(session, RunnerEvent::Output(job.clone(), Lease(lease.0 + 1)));
    }
    assert_eq!(world.state(&job), JobState::Dropped);
}
