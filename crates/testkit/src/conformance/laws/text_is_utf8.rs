//! Text is UTF-8: a character that is split over two reads survives, other bytes become U+FFFD.

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, ensure, give, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("text_stays_as_it_is", unchanged);
    law.each("split_characters_survive", split);
    law.each("other_bytes_become_replacement_characters", other_bytes);
}

async fn unchanged(bench: Bench) -> Checked {
    let text = "a\0b\r\n\té💧\u{1b}[1m\u{feff}";
    let seen = bench.run(&[print(text), Act::Stderr(text.to_owned()), give("1")]).await?;
    ensure!(seen.stdout() == text, "stdout is {:?}", seen.stdout());
    ensure!(seen.stderr() == text, "stderr is {:?}", seen.stderr());
    Ok(())
}

async fn split(bench: Bench) -> Checked {
    let drop = "💧".as_bytes();
    let mut acts = Vec::new();
    for piece in drop.chunks(1) {
        acts.extend([Act::Bytes(piece.to_vec()), Act::Pause(50)]);
    }
    acts.push(give("1"));
    let seen = bench.run(&acts).await?;
    ensure!(seen.stdout() == "💧", "stdout is {:?}", seen.stdout());
    Ok(())
}

async fn other_bytes(bench: Bench) -> Checked {
    // The last is the first half of a character that never comes.
    let bytes = vec![0xff, b'a', 0xc0, b'b', 0xc3];
    let seen = bench.run(&[Act::Bytes(bytes), give("1")]).await?;
    let expected = "\u{fffd}a\u{fffd}b\u{fffd}";
    ensure!(seen.stdout() == expected, "stdout is {:?}", seen.stdout());
    Ok(())
}
