"""Shims: Hydra executes plugin modules at every start, and without `sys.modules`, so nothing but
names stands here.
"""

from hydra.plugins.launcher import Launcher


class PoolLauncher(Launcher):
    """`hydra/launcher=pool`; see `isometry.launch.pool`."""

    def __init__(self, **settings):
        from isometry.launch.pool import Pool

        self.launcher = Pool(**settings)

    def setup(self, *, hydra_context, task_function, config):
        self.launcher.setup(hydra_context, config)

    def launch(self, job_overrides, initial_job_idx):
        return self.launcher.launch(job_overrides, initial_job_idx)


class SlurmLauncher(PoolLauncher):
    """`hydra/launcher=slurm`; see `isometry.launch.slurm`."""

    def __init__(self, **settings):
        from isometry.launch.slurm import Slurm

        self.launcher = Slurm(**settings)
