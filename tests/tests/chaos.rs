//! Random faults for a while, always the same ones: what must hold then holds. `cargo xtask chaos` runs other seeds, for longer.

use gemcast_lab::{Chaos, Result, Seconds};

#[test]
fn chaos_breaks_no_promise() -> Result<()> {
    let chaos = Chaos { seed: 1, lasts: 20.s(), instance: "t-chaos".into() };
    let again = format!("again: cargo xtask chaos --seed {} --seconds {}", chaos.seed, chaos.lasts.as_secs());
    println!("{again}");
    let report = chaos.run(&mut |event| println!("{event}"))?;
    assert!(report.rounds > 0 && report.delivered > 0, "{report:?}");
    assert!(report.violations.is_empty(), "{:#?}; {again}", report.violations);
    Ok(())
}
