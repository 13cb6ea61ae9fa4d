"""A Ray cluster of two cores on this machine, for all tests that need one."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    ray = pytest.importorskip("ray.data", reason="the extra ray is not installed") and __import__("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()
