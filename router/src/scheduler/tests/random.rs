//! Random histories, in which runners lie and verdicts come late.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{super::*, *};

#[derive(Clone, Debug)]
enum Step {
    Submit,
    Decide(usize, u8),
    Attach(u8),
    Detach(u8),
    Credit(u8),
    Tell(u8, usize, u8),
    Cancel(usize),
    Reload(u8),
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Submit),
        6 => (any::<usize>(), 0u8..4).prop_map(|(job, how)| Step::Decide(job, how)),
        2 => (0u8..3).prop_map(Step::Attach),
        1 => (0u8..3).prop_map(Step::Detach),
        4 => (0u8..3).prop_map(Step::Credit),
        6 => (0u8..3, any::<usize>(), 0u8..6).prop_map(|(runner, job, what)| Step::Tell(runner, job, what)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0u8..3).prop_map(Step::Reload),
        2 => (0u8..60).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Invariants 1 to 3 of the design, over random histories in which runners lie and verdicts come late.
    #[test]
    fn random_histories_keep_the_invariants(steps in steps()) {
        let policy = |version: u8| chains(vec![
            entry("i", "instance", &format!("v{version}")),
            entry("r", "runner:r1", &format!("v{version}")),
        ]);
        let mut world = World::new(policy(0));
        let runners: Vec<_> = (0..3).map(|n| any_runner(&format!("r{n}"))).collect();
        let mut sessions: HashMap<u8, Session> = HashMap::new();
        let mut jobs: Vec<JobId> = Vec::new();
        // What each admission was told, and under which chain: the model of "admitted".
        let mut open: Vec<(JobId, Arc<str>, ChainVersion)> = Vec::new();
        let mut admitted: HashMap<JobId, (ChainVersion, Duration)> = HashMap::new();
        let mut leases: HashMap<JobId, Vec<Lease>> = HashMap::new();
        let mut final_states: HashMap<JobId, JobState> = HashMap::new();
        let project: ProjectPath = "acme/payments/api".parse().unwrap();
        for step in steps {
            match step {
                Step::Submit => jobs.push(world.submit(|_| {})),
                Step::Decide(which, how) if !open.is_empty() => {
                    let (job, admission, version) = open.swap_remove(which % open.len());
                    let conclusion = match how { 0 => Conclusion::Rejected, 1 => Conclusion::Wait, _ => Conclusion::Admitted };
                    if matches!(conclusion, Conclusion::Admitted)
                        && world.scheduler.awaits(&job, &admission) && world.state(&job) == JobState::Routing {
                        admitted.insert(job.clone(), (version.clone(), world.now));
                    }
                    world.decide_as(&job, admission, conclusion, version);
                }
                Step::Attach(n) => { sessions.insert(n, world.attach(&runners[n as usize], 2, vec![])); }
                Step::Detach(n) => if let Some(session) = sessions.remove(&n) {
                    let now = world.now();
                    world.scheduler.detach(session, now);
                    world.settle();
                },
                Step::Credit(n) => if let Some(session) = sessions.get(&n).copied() { world.says(session, RunnerEvent::Credit(1)); },
                Step::Tell(n, which, what) if !jobs.is_empty() => if let Some(session) = sessions.get(&n).copied() {
                    let job = jobs[which % jobs.len()].clone();
                    let known = leases.get(&job).cloned().unwrap_or_default();
                    let lease = if what % 2 == 0 { known.last().copied() } else { known.first().copied() }.unwrap_or(Lease(7));
                    let event = match what {
                        0 | 1 => RunnerEvent::Started(job, lease),
                        2 => RunnerEvent::Finished(job, lease, success()),
                        3 => RunnerEvent::Refused(job, lease, "no".into()),
                        4 => RunnerEvent::Heartbeat(vec![HeldLease { job, lease, started: true }]),
                        _ => RunnerEvent::Accepted(job, lease),
                    };
                    world.says(session, event);
                },
                Step::Cancel(which) if !jobs.is_empty() => {
                    let now = world.now();
                    let _ = world.scheduler.cancel(&jobs[which % jobs.len()], "x".into(), now);
                    world.settle();
                }
                Step::Reload(version) => {
                    let now = world.now();
                    world.scheduler.set_chains(policy(version), now);
                    world.settle();
                }
                Step::Wait(seconds) => world.after(seconds.into()),
                _ => {}
            }
            for (job, admission) in std::mem::take(&mut world.asked) {
                let part = match world.scheduler.job(&job).map(|job| &job.phase) {
                    Some(Phase::Admitted { check: Some(check), .. }) if check.admission == admission => Part::Runner("r1"),
                    _ => Part::Arrival,
                };
                open.push((job, admission, world.scheduler.chains().version(&project, part)));
            }
            for (session, job, lease) in std::mem::take(&mut world.assigned) {
                {
                    {
                        let (version, at) = admitted.get(&job).expect("assigned without an admission");
                        prop_assert!(world.now.saturating_sub(*at) < TTL);
                        prop_assert_eq!(version, &world.scheduler.chains().version(&project, Part::Arrival));
                        leases.entry(job).or_default().push(lease);
                        prop_assert!(sessions.values().any(|known| *known == session));
                    }
                }
            }
            let orders = std::mem::take(&mut world.orders);
            for (session, order) in orders {
                if let RunnerOrder::End(_) = order { sessions.retain(|_, known| *known != session) }
            }
            for job in &jobs {
                // Finished jobs beyond the limit are forgotten; there are fewer here.
                let state = world.state(job);
                if let Some(before) = final_states.get(job) {
                    prop_assert_eq!(*before, state, "a final state is final");
                }
                if state.is_final() { final_states.insert(job.clone(), state); }
                let held = world.scheduler.job(job).unwrap();
                if let Some(grant) = held.grant() {
                    prop_assert_eq!(Some(&grant.lease), leases[job].iter().max(), "only the latest lease is valid");
                }
                prop_assert_eq!(
                    matches!(held.phase, Phase::Admitted { .. }),
                    state == JobState::Admitted
                );
            }
            let waiting = jobs.iter().filter(|job| world.state(job) == JobState::Admitted).count();
            let checked = jobs.iter().filter(|job| matches!(world.scheduler.job(job).unwrap().phase, Phase::Admitted { check: Some(_), .. })).count();
            prop_assert_eq!(world.scheduler.waiting(), waiting - checked, "every waiting job has its place");
            let mut held: HashMap<Session, u32> = HashMap::new();
            for session in world.scheduler.jobs.iter().filter_map(Job::reserved) {
                *held.entry(session).or_default() += 1;
            }
            for session in sessions.values() {
                let state = &world.scheduler.sessions[session];
                let reserved = session::count(&state.reserved);
                prop_assert_eq!(reserved, held.get(session).copied().unwrap_or_default());
                prop_assert!(reserved <= state.credits, "no slot is promised twice");
                let jobs = world.scheduler.jobs.iter()
                    .filter(|job| job.grant().is_some_and(|grant| grant.session == Some(*session))).count();
                prop_assert_eq!(state.jobs.len(), jobs);
            }
        }
    }
}
