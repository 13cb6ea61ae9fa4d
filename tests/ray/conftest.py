"""A Ray cluster of two cores on this machine, for all tests that need one; their files skip where Ray is missing."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        # By default all other processes of a busy machine come first.
        _system_config={"worker_niceness": 0},
    )
    yield
    ray.shutdown()
