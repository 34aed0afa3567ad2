//! Random faults for a while, always the same ones: what must hold then holds. `cargo xtask chaos` runs other seeds, for longer.

use gemcast_lab::{Chaos, Result, Seconds};

#[test]
fn chaos_breaks_no_promise() -> Result<()> {
    let chaos = Chaos { seed: 1, lasts: 20.s(), instance: "t-chaos".into() };
    let report = chaos.run(&mut |event| println!("{event}"))?;
    assert!(report.rounds > 3 && report.delivered > 0, "{report:?}");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    Ok(())
}
