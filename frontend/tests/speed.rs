//! Parsing and lowering stay fast on Dockerfiles of thousands of instructions and stages. In an
//! optimised build the limits are milliseconds; in any build four times as much takes less than
//! eight times as long, which work that grows with the square does not. It does not know which part
//! of the work is slow.

use kiln_frontend::{BuildOptions, ResolvedImage, lower};
use kiln_oci::{DiffId, Digest, ImageConfig, Platform};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How often each is measured; the best counts.
const RUNS: usize = if cfg!(debug_assertions) { 3 } else { 5 };
/// How often what seems slow is measured again, before it is taken for slow.
const ATTEMPTS: usize = 3;
/// An unoptimised build looks at half of the size only: it is slow in any case.
const PART: usize = if cfg!(debug_assertions) { 2 } else { 1 };
/// What four times the instructions may take, in times of the time of one.
const FACTOR_MAX: u32 = 8;
/// What is too short to be compared: the clock and the caches say more than the work.
const FLOOR: Duration = Duration::from_millis(2);
/// How long 10,000 instructions may take.
const INSTRUCTIONS_LIMIT: Duration = Duration::from_millis(100);
/// How long 1,000 stages may take.
const STAGES_LIMIT: Duration = Duration::from_millis(300);

/// A kind of Dockerfile, of any size.
struct Shape {
    name: &'static str,
    make: fn(usize) -> String,
}

/// Sizes are numbers of instructions.
const INSTRUCTIONS: &[Shape] = &[
    Shape { name: "ENV", make: |n| repeated("", n, |i| format!("ENV NAME{i}=value{i}\n")) },
    Shape {
        name: "ENV of 50 names",
        make: |n| repeated("", n, |i| format!("ENV NAME{}=$NAME{}\n", i % 50, (i + 1) % 50)),
    },
    Shape { name: "RUN", make: |n| repeated("", n, |i| format!("RUN echo {i} > /file\n")) },
    Shape {
        name: "RUN with 50 variables",
        make: |n| {
            let env: String = (0..50).map(|i| format!("ENV NAME{i}=value\n")).collect();
            repeated(&env, n, |i| format!("RUN echo {i} > /file\n"))
        },
    },
    Shape { name: "COPY", make: |n| repeated("", n, |i| format!("COPY src{i} /dest/\n")) },
    Shape { name: "LABEL", make: |n| repeated("", n, |i| format!("LABEL name{i}=value{i}\n")) },
    Shape { name: "WORKDIR", make: |n| repeated("", n, |i| format!("WORKDIR /dir{i}\n")) },
    Shape {
        name: "ARG and its use",
        make: |n| repeated("", n / 2, |i| format!("ARG NAME{i}=value\nLABEL name=$NAME{i}\n")),
    },
    Shape {
        name: "one RUN of n lines",
        make: |n| repeated("RUN true", n, |i| format!(" \\\n # why\n && echo {i}")),
    },
    Shape {
        name: "ENV of n pairs",
        make: |n| repeated("ENV A=a", n, |i| format!(" \\\n  NAME{i}=\"value $A\"")),
    },
    Shape {
        name: "heredocs",
        make: |n| repeated("", n / 4, |i| format!("COPY <<EOF /file{i}\nhello $PATH\nEOF\n\n")),
    },
    Shape {
        name: "ENV and RUN in turn",
        make: |n| repeated("", n / 2, |i| format!("ENV NAME{i}=value\nRUN echo {i}\n")),
    },
    Shape {
        name: "ENV of variables that are not set",
        make: |n| repeated("", n, |i| format!("ENV NAME{i}=$OTHER{i}\n")),
    },
];

/// Sizes are numbers of stages.
const STAGES: &[Shape] = &[
    Shape {
        name: "stages, each FROM the one before",
        make: |n| {
            let rest = repeated("", n - 1, |i| {
                format!("FROM s{i} AS s{}\nENV E{}={i}\nRUN echo {i}\n", i + 1, i % 9)
            });
            rest.replacen("FROM busybox\n", "FROM busybox AS s0\n", 1)
        },
    },
    Shape {
        name: "stages, each with a COPY of the one before, the last of all",
        make: |n| {
            let rest = repeated("", n - 1, |i| {
                format!("FROM busybox AS s{}\nCOPY --from=s{i} /a /b\nRUN echo {i}\n", i + 1)
            });
            let all: String = (0..n).map(|i| format!("COPY --from=s{i} /a /all/{i}\n")).collect();
            rest.replacen("FROM busybox\n", "FROM busybox AS s0\n", 1) + "FROM scratch\n" + &all
        },
    },
    Shape {
        name: "stages of images of their own",
        make: |n| repeated("", n - 1, |i| format!("FROM image{i} AS s{i}\nARG TARGETARCH\n")) + "RUN true\n",
    },
];

/// A Dockerfile with `n` times something after its first stage's FROM.
fn repeated(begin: &str, n: usize, mut part: impl FnMut(usize) -> String) -> String {
    let mut text = format!("FROM busybox\n{begin}");
    for i in 0..n {
        text.push_str(&part(i));
    }
    text.push('\n');
    text
}

/// The shortest time that parsing and lowering takes.
fn best(dockerfile: &str) -> Duration {
    let options = BuildOptions::new(Platform::new("linux", "amd64", None));
    let mut config =
        ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
    config.config.env = vec!["PATH=/bin".to_owned()];
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"layer"))];
    let once = || {
        let start = Instant::now();
        let parse = kiln_grammar::parse(dockerfile);
        let lowered = lower(&parse, &options, &mut |requests| {
            let image = |reference: &str| ResolvedImage {
                digest: Digest::from_bytes([7; 32]),
                config: config.clone(),
                reference: reference.to_owned(),
            };
            requests.iter().map(|request| Ok(image(&request.reference))).collect()
        });
        let took = start.elapsed();
        assert!(lowered.is_ok(), "{:?}", lowered.err());
        took
    };
    (0..RUNS).map(|_| once()).min().unwrap_or_default()
}

/// The times of a quarter of a shape and of all of it, and whether they are good.
fn measure(shape: &Shape, size: usize, limit: Duration) -> (Duration, Duration, bool) {
    let (part, whole) = (best(&(shape.make)(size / 4)), best(&(shape.make)(size)));
    let in_time = cfg!(debug_assertions) || whole < limit;
    (part, whole, in_time && whole < part.max(FLOOR) * FACTOR_MAX)
}

/// Checks that shapes of a size are done within a time (where the build is optimised), and that they
/// do not grow with the square. With `SHOW_TIMES` it says what it has measured.
fn check(shapes: &[Shape], size: usize, limit: Duration, attempts: usize) {
    let size = size / PART;
    let mut table = String::new();
    let mut is_slow = false;
    for shape in shapes {
        let mut measured = measure(shape, size, limit);
        for _ in 1..attempts {
            if !measured.2 {
                measured = measure(shape, size, limit);
            }
        }
        let (part, whole, is_good) = measured;
        is_slow |= !is_good;
        let mark = if is_good { "" } else { "  <-- slow" };
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let _ = writeln!(table, "{:9.2} ms {:9.2} ms  {size} {}{mark}", ms(part), ms(whole), shape.name);
    }
    assert!(!is_slow, "a quarter, and all:\n{table}limit {limit:?} if optimised, factor {FACTOR_MAX}");
    if std::env::var_os("SHOW_TIMES").is_some() {
        // What `--nocapture` shows.
        #[allow(clippy::print_stdout)]
        {
            println!("{table}");
        }
    }
}

#[test]
fn ten_thousand_instructions_are_lowered_in_a_tenth_of_a_second() {
    check(INSTRUCTIONS, 10_000, INSTRUCTIONS_LIMIT, ATTEMPTS);
}

#[test]
fn a_thousand_stages_are_lowered_in_three_tenths_of_a_second() {
    check(STAGES, 1_000, STAGES_LIMIT, ATTEMPTS);
}
