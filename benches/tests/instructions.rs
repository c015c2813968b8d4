//! The gate: the count may not grow unnoticed.

use portcullis_benches::instructions::{MOST, count};

/// What it was when this line was last touched. Touch it when the count has changed for a reason.
const BEFORE: u64 = 41_000;

#[test]
fn decoding_and_deciding_a_dnsmasq_request_takes_no_more_instructions_than_before() {
    let counted = count();
    println!("decode and decide: {counted} instructions");
    assert!(
        counted < MOST,
        "{counted} instructions; the goal is under {MOST}"
    );
    let most = BEFORE + BEFORE / 10;
    assert!(
        counted <= most,
        "{counted} instructions, a tenth more than {BEFORE}"
    );
}
