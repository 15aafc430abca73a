//! `kiln verify`: builds an image once more, and shows what is not as it is in the one that is there. It does not
//! know how either is done.

use super::args::VerifyArgs;
use super::{diff, print};
use crate::build;
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use kiln_oci::Platform;
use kiln_worker::{CancelToken, Difference, ImageName, ProgressSink, Worker, WorkerError};

pub(crate) fn run(
    args: VerifyArgs,
    open: impl Fn(&[String]) -> Result<Worker, WorkerError>,
    cancel: &CancelToken,
) -> Result<(), CommandError> {
    let VerifyArgs { only, times, image, build: mut args } = args;
    let is_given =
        !args.tags.is_empty() || !args.outputs.is_empty() || args.push || args.check || args.dry_run;
    if is_given {
        let problem =
            "verify builds only to compare: leave --tag, --output, --push, --check and --dry-run out";
        return Err(CommandError::usage("verify", problem));
    }
    let image = image.parse::<ImageName>().map_err(|e| CommandError::usage(image.clone(), e.to_string()))?;
    let platform = match args.platform.as_slice() {
        [] => Platform::host(),
        [one] if !one.contains(',') => super::platform_of(one)?,
        _ => return Err(CommandError::usage("--platform", "one platform is verified at a time")),
    };
    let name = format!("localhost/kiln-verify:{}", std::process::id());
    args.tags = vec![name.clone()];
    let (worker, _) = build::opened(&args, &args.insecure_registry, &open)?;
    build::run(args.settled()?, &open, cancel)?;
    let rebuilt = reference("NAME", &name)?;
    let plain = Plain::new(true);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let sink = ProgressSink::new(&show);
    let compared = worker.diff(&image, &rebuilt.clone().into(), &platform, times, &sink);
    worker.untag(&rebuilt)?;
    let found = diff::only(compared?, only);
    // Layers have the times of files in them, which do not count unless they are to.
    let found = if only.is_none() && !times { Difference { layers: Vec::new(), ..found } } else { found };
    print(diff::as_text(&found, only))?;
    if found.is_none() { Ok(()) } else { Err(CommandError::Different) }
}
