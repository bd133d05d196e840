//! A migration that is added later is built in, too.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/demo");
}
