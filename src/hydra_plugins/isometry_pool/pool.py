"""A shim: Hydra executes plugin modules at every start, and without `sys.modules`, so nothing but names stands here."""

from hydra.plugins.launcher import Launcher


class PoolLauncher(Launcher):
    """`hydra/launcher=pool`; see `isometry.launch.pool`."""

    def __init__(self, **settings):
        from isometry.launch.pool import Pool

        self.pool = Pool(**settings)

    def setup(self, *, hydra_context, task_function, config):
        self.pool.setup(hydra_context, config)

    def launch(self, job_overrides, initial_job_idx):
        return self.pool.launch(job_overrides, initial_job_idx)
