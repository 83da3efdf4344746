"""Stands in for the library of NVIDIA's driver where there is none."""

from typing import Any


class FakeDriver:
    """Answers as a driver with one GPU does; `failing` names a call that returns error 999."""

    def __init__(self, *, failing: str = "", num_devices: int = 1) -> None:
        self.failing, self.num_devices = failing, num_devices

    def __getattr__(self, call: str) -> Any:
        values = {
            "cuDeviceGetCount": self.num_devices,
            "cuDeviceGet": 0,
            "cuDriverGetVersion": 13000,
            "cuDeviceTotalMem_v2": 24 * 2**30,
        }

        def answer(target: Any, *arguments: Any) -> int:
            if call == self.failing:
                return 999
            if call == "cuDeviceGetName":
                target.value = b"NVIDIA L4"
            elif call == "cuDeviceGetAttribute":
                target._obj.value = {75: 8, 76: 9}[arguments[0]]
            else:
                target._obj.value = values[call]
            return 0

        return answer
