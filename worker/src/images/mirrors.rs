//! Layers of which a mirror sent wrong bytes. It does not know how a layer is fetched.

use super::Images;
use crate::layer::Origin;
use crate::{ImageName, WorkerError};
use kiln_registry::RegistryError;

/// So many mirrors may send wrong bytes of one layer.
const MIRRORS_MAX: usize = 8;

impl Images<'_> {
    /// Does something once more where a mirror sent wrong bytes: it is not asked then.
    pub(super) fn retried<T>(
        &self,
        origin: Option<&Origin>,
        work: impl Fn() -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        for _ in 1..MIRRORS_MAX {
            match work() {
                Err(WorkerError::Registry(error)) if self.is_of_mirror(origin, &error) => {}
                done => return done,
            }
        }
        work()
    }

    fn is_of_mirror(&self, origin: Option<&Origin>, error: &RegistryError) -> bool {
        let Some(Origin::Image(ImageName::Registry(reference))) = origin else { return false };
        self.client.may_be_elsewhere(reference, error)
    }
}
