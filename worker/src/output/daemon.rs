//! An image into a Docker daemon: only the layers that it lacks, where that can be; else all of it. It does not
//! know the daemon's protocol.

use super::archive::{Member, write_archive, write_thin};
use super::{Built, Writer};
use crate::WorkerError;
use crate::docker_daemon::{DockerDaemon, DockerError, DockerHost};
use crate::export::config_bytes;
use kiln_oci::DiffId;

impl Writer<'_> {
    /// Loads the result, which is one image.
    pub(super) fn load_into(&self, host: &DockerHost) -> Result<(), WorkerError> {
        let [built] = self.built else {
            return Err(WorkerError::Unsupported("a Docker daemon for several platforms".to_owned()));
        };
        let daemon = DockerDaemon::new(host, self.exporter.images)?;
        let is_rewritten = self.output.rewrite_timestamp && built.target.source_date_epoch_s.is_some();
        // Layers with other times are others, and only known once they are made.
        if !is_rewritten {
            let diff_ids = built.stack.diff_ids()?;
            let has = daemon.layers_of(&diff_ids, &self.output.names)?;
            if has > 0 && self.load_lacking(&daemon, host, built, &diff_ids, has)? {
                return Ok(());
            }
        }
        let (release, _) = self.release()?;
        let blobs = release.images().iter().flat_map(|image| &image.manifest.layers);
        let (count, bytes) = blobs.fold((0, 0), |(count, bytes), blob| (count + 1, bytes + blob.size));
        self.exporter.task(&format!("loading into {host}: all {count} layers, {bytes} bytes"), || {
            let member = Member::named(&self.output.names, &release);
            daemon.load(|out| write_archive(self.exporter, &[member], true, out))
        })
    }

    /// Loads it without the lowest layers, which the daemon has. Whether it took that: one may have been removed, or
    /// the daemon may be none of Docker's own.
    fn load_lacking(
        &self,
        daemon: &DockerDaemon<'_>,
        host: &DockerHost,
        built: &Built<'_>,
        diff_ids: &[DiffId],
        has: usize,
    ) -> Result<bool, WorkerError> {
        let exporter = self.exporter;
        let lacking = has..diff_ids.len();
        let blob = |at| exporter.blob(&built.stack, at, self.output.layers, None).map(|(_, blob)| blob);
        let blobs = lacking.map(blob).collect::<Result<Vec<_>, _>>()?;
        let bytes: u64 = blobs.iter().map(|blob| blob.size).sum();
        let config = config_bytes(&built.config);
        let (lacks, all) = (blobs.len(), diff_ids.len());
        exporter.task(&format!("loading into {host}: {lacks} of {all} layers, {bytes} bytes"), || {
            let of = (config.as_slice(), diff_ids);
            let loaded = daemon.load(|out| write_thin(exporter, &self.output.names, of, &blobs, out));
            match loaded {
                // Who refuses may hang up before all is sent, which cuts off what it says.
                Err(WorkerError::Docker {
                    error: DockerError::Refused(_) | DockerError::Unreachable(_),
                    ..
                }) => Ok(false),
                loaded => loaded.map(|()| true),
            }
        })
    }
}
