"""How the process's tasks end together."""

import asyncio

import pytest
from wharfinger_operator.main import first_of
from wharfinger_operator.settings import SettingsError, settings_from


def run(*coroutines, cancel=None):
    """What first_of did with these coroutines, one of which may be cancelled first."""
    async def main():
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        await asyncio.sleep(0)
        if cancel is not None:
            tasks[cancel].cancel()
        async with asyncio.timeout(1):
            await first_of(*tasks)
        return tasks

    return asyncio.run(main())


async def ends(after_s=0.01):
    await asyncio.sleep(after_s)


async def fails():
    raise ValueError("broken")


async def fails_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


def test_end_of_one_task_ends_the_others():
    assert [task.cancelled() for task in run(ends(), ends(60))] == [False, True]


@pytest.mark.parametrize("failing", [fails, fails_in_a_group])
def test_error_of_any_task_ends_all_and_is_raised_by_itself(failing):
    with pytest.raises(ValueError, match="broken"):
        run(ends(60), failing())


def test_task_that_leaves_in_order_lets_the_other_end_by_itself():
    assert [task.cancelled() for task in run(ends(60), ends(0.05), cancel=0)] == [True, False]


@pytest.mark.parametrize(("text", "networks"), [
    ("", []), ("192.0.2.0/24", ["192.0.2.0/24"]), ("192.0.2.1, 198.51.100.0/25", ["192.0.2.1/32", "198.51.100.0/25"])])
def test_networks_of_literal_addresses_are_read_with_commas_between(text, networks):
    assert list(map(str, settings_from({"WHARFINGER_LITERAL_ADDRESSES": text}).literal_addresses)) == networks


@pytest.mark.parametrize("text", ["192.0.2.1/24", "fd00::/64", "shop"])
def test_what_is_no_ipv4_network_is_refused_by_name(text):
    with pytest.raises(SettingsError, match="WHARFINGER_LITERAL_ADDRESSES"):
        settings_from({"WHARFINGER_LITERAL_ADDRESSES": text})
