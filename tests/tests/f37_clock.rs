//! F37: the wall clock of one gateway is wrong. Half a minute of it does no harm. Further behind it signs nothing and says
//! so, while what seals already goes on; further ahead the others refuse its keys, and say so.

mod common;

use common::{GROUPS, PORT, events, ip, keys_in_state, opening_keys, problem, turn, wait_accounted};
use gemcast_lab::{Account, Daemon, Fault, Lab, Options, Result, Seconds, Stream, Topology};

#[test]
fn f37_half_a_minute_is_tolerated_and_more_is_refused() -> Result<()> {
    let _turn = turn();
    let keys = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";
    let lab = Lab::up(Topology::pair(), Options::new("t-f37").config(keys))?;
    let [a, b] = ["a", "b"].map(|name| lab.gateway(name));
    let group = ip(GROUPS[0]);
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group).bits_per_second(1_000_000))?;
    lab.eventually(20.s(), "the stream", || receiver.delivered() > 0)?;
    // Has `a` make a new key, and waits until it seals and the other gateway opens it.
    let rotate = || -> Result<()> {
        let old = keys_in_state(&a, "active");
        let new = a.gemctl(&["key", "rotate", GROUPS[0]])?["new_key"].as_str().unwrap_or_default().to_owned();
        lab.eventually(20.s(), "the new key to seal", || keys_in_state(&a, "active").contains(&new))?;
        assert!(!old.contains(&new));
        lab.eventually(20.s(), "the other to open it", || opening_keys(&b).contains(&new)).map(drop)
    };
    for seconds in [-25, 25] {
        let skew = Fault::Skew { gateway: "a".into(), seconds };
        lab.inject(&skew)?;
        rotate()?;
        lab.lift(&skew)?;
        rotate()?;
    }

    // Ten minutes behind what it was when it ran last.
    a.kill_control()?;
    let skew = Fault::Skew { gateway: "a".into(), seconds: -600 };
    lab.inject(&skew)?;
    a.start(Daemon::Control)?;
    lab.eventually(20.s(), "the status to say so", || problem(&a, "signing").is_some())?;
    let told = problem(&a, "signing").expect("it was there");
    let text = told["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("the wall clock is more than 30 s behind what it is known to have been"), "{text}");
    assert!(told["fix"].as_str().is_some_and(|fix| fix.contains("gemctl clock accept")), "{told}");
    let refused = a.gemctl_output(&["key", "rotate", GROUPS[0]])?;
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && stderr.contains("30 s behind"), "{stderr}");
    let delivered = receiver.delivered();
    lab.eventually(20.s(), "what seals already to go on", || receiver.delivered() > delivered + 100)?;

    lab.lift(&skew)?;
    lab.eventually(20.s(), "the refusal to end", || problem(&a, "signing").is_none())?;
    a.wait_keys(20.s())?;
    rotate()?;
    let account = Account::of(&sender.stop(), &receiver.finish(200.ms()).stream(1), &[]);
    assert!(account.is_perfect(), "{account:?}");

    // Ten minutes ahead of the others: they do not take its keys, until its clock is right again.
    let old = keys_in_state(&a, "active");
    let skew = Fault::Skew { gateway: "a".into(), seconds: 600 };
    lab.inject(&skew)?;
    lab.eventually(20.s(), "keys by the new time", || keys_in_state(&a, "active").is_disjoint(&old))?;
    lab.eventually(20.s(), "the other to say why it refuses them", || !events(&b, "clock_ahead").is_empty())?;
    let told = events(&b, "clock_ahead").remove(0);
    let text = told["text"].as_str().unwrap_or_default();
    assert!(text.contains("in the future, and 30 s are tolerated; synchronize both clocks"), "{told}");
    assert!(opening_keys(&b).is_disjoint(&keys_in_state(&a, "active")));
    lab.lift(&skew)?;
    // Its clock went back, which only its operator can know to be right.
    lab.eventually(20.s(), "the status to say so", || problem(&a, "signing").is_some())?;
    a.gemctl(&["clock", "accept"])?;
    lab.eventually(20.s(), "the refusal to end", || problem(&a, "signing").is_none())?;
    let opens = || keys_in_state(&a, "active").is_subset(&opening_keys(&b));
    lab.eventually(30.s(), "keys that the other takes", opens)?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let _sender = lab.host("source").send(Stream::to(group).id(2).bits_per_second(1_000_000))?;
    lab.eventually(20.s(), "the stream to arrive again", || receiver.delivered() > 100)?;
    wait_accounted(&lab)
}
