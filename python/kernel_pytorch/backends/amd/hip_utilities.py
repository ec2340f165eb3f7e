"""Streams, events and timed regions for AMD GPUs; on a machine without one, time is the clock's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.backends.amd.amd_exceptions import AMDDeviceError
from kernel_pytorch.backends.amd.levels import find_gpus
from kernel_pytorch.backends.system_memory import available_memory, total_memory
from kernel_pytorch.core.config import AMDConfig

__all__ = ["HIPEvent", "HIPStream", "HIPUtilities"]


@dataclass
class HIPEvent:
    """A moment in a stream; without a GPU, of the clock."""

    name: str
    device_id: int
    _event: torch.cuda.Event | None = None
    _recorded: float | None = None

    def record(self, stream: torch.cuda.Stream | None = None) -> None:
        """Mark the moment when the stream has done what was asked of it so far."""
        self._recorded = time.perf_counter()
        if self._event is not None:
            self._event.record(stream)

    def synchronize(self) -> None:
        """Wait for the moment."""
        if self._event is not None:
            self._event.synchronize()

    def elapsed_time(self, end_event: HIPEvent) -> float:
        """Milliseconds from this moment to another; AMDDeviceError when one was not recorded."""
        if self._recorded is None or end_event._recorded is None:
            missing = self.name if self._recorded is None else end_event.name
            raise AMDDeviceError(self.device_id, "elapsed time", f"event {missing!r} not recorded")
        if self._event is not None and end_event._event is not None:
            return self._event.elapsed_time(end_event._event)
        return (end_event._recorded - self._recorded) * 1e3


@dataclass
class HIPStream:
    """A stream of a GPU; without one it has nothing to wait for."""

    name: str
    device_id: int
    priority: int = 0
    _stream: torch.cuda.Stream | None = None

    def synchronize(self) -> None:
        """Wait until everything in it is done."""
        if self._stream is not None:
            self._stream.synchronize()

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """torch's own; None without a GPU."""
        return self._stream


class HIPUtilities:
    """Named streams and events, and times of regions (kept when ``config.enable_profiling``)."""

    def __init__(self, config: AMDConfig | None = None) -> None:
        self.config = AMDConfig() if config is None else config
        self._found = find_gpus()
        self._streams: dict[str, HIPStream] = {}
        self._events: dict[str, HIPEvent] = {}
        self._regions: list[dict[str, Any]] = []

    @property
    def available(self) -> bool:
        """Whether there is a GPU that torch can use."""
        return not self._found.absent

    def _device(self, device_id: int | None) -> torch.device:
        chosen = self.config.device_id if device_id is None else device_id
        count = len(self._found.usable)
        if chosen < 0 or (self.available and chosen >= count):
            raise AMDDeviceError(chosen, "select", f"there are {count} devices")
        return self._found.device(chosen)

    def create_stream(
        self, name: str, priority: int = 0, device_id: int | None = None
    ) -> HIPStream:
        """A stream that :meth:`get_stream` finds by its name."""
        device = self._device(device_id)
        made = torch.cuda.Stream(device, priority=priority) if self.available else None
        stream = HIPStream(name, device.index or 0, priority, made)
        self._streams[name] = stream
        return stream

    def get_stream(self, name: str) -> HIPStream | None:
        """The stream of that name; None when there is none."""
        return self._streams.get(name)

    def create_event(self, name: str, device_id: int | None = None) -> HIPEvent:
        """An event that takes times."""
        device = self._device(device_id)
        made = torch.cuda.Event(enable_timing=True) if self.available else None
        event = HIPEvent(name, device.index or 0, made)
        self._events[name] = event
        return event

    def synchronize_device(self, device_id: int | None = None) -> None:
        """Wait for a GPU."""
        device = self._device(device_id)
        if self.available:
            torch.cuda.synchronize(device)

    def synchronize_all_devices(self) -> None:
        """Wait for every GPU."""
        for found in self._found.usable:
            self.synchronize_device(found.index)

    @contextlib.contextmanager
    def stream_context(self, stream_name: str) -> Iterator[HIPStream]:
        """Within the block, work goes to the stream of that name; KeyError when there is none."""
        found = self._streams.get(stream_name)
        if found is None:
            raise KeyError(f"no stream {stream_name!r}; there are: {', '.join(self._streams)}")
        with torch.cuda.stream(found.stream) if found.stream else contextlib.nullcontext():
            yield found

    @contextlib.contextmanager
    def profile_region(self, name: str) -> Iterator[None]:
        """Time the block, the device's work included, when profiling is on."""
        if not self.config.enable_profiling:
            yield
            return
        self.synchronize_device()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.synchronize_device()
            took = (time.perf_counter() - started) * 1e3
            self._regions.append({"name": name, "duration_ms": took})

    def get_profiling_data(self) -> list[dict[str, Any]]:
        """name and duration_ms of each region, in the order in which they ended."""
        return [dict(region) for region in self._regions]

    def clear_profiling_data(self) -> None:
        """Forget the regions."""
        self._regions.clear()

    def get_profiling_summary(self) -> dict[str, Any]:
        """total_regions, total_time_ms, and count, total_ms, mean_ms and max_ms by name."""
        regions: dict[str, dict[str, Any]] = {}
        for region in self._regions:
            times = regions.setdefault(region["name"], {"count": 0, "total_ms": 0.0, "max_ms": 0.0})
            times["count"] += 1
            times["total_ms"] += region["duration_ms"]
            times["max_ms"] = max(times["max_ms"], region["duration_ms"])
        for times in regions.values():
            times["mean_ms"] = times["total_ms"] / times["count"]
        return {
            "total_regions": len(self._regions),
            "total_time_ms": sum(r["duration_ms"] for r in self._regions),
            "regions": regions,
        }

    def memory_copy_async(
        self, dst: torch.Tensor, src: torch.Tensor, stream: HIPStream | None = None
    ) -> None:
        """Copy without waiting; done at once without a GPU."""
        inner = stream.stream if stream is not None else None
        with torch.cuda.stream(inner) if inner else contextlib.nullcontext():
            dst.copy_(src, non_blocking=True)

    def get_device_properties(self, device_id: int | None = None) -> dict[str, Any]:
        """``available``, and the device as plain data or the reason why there is none."""
        if not self.available:
            return {"available": False, "reason": self._found.absent}
        chosen = self._device(device_id).index or 0
        return {"available": True, **self._found.infos()[chosen].to_dict()}

    def get_memory_info(self, device_id: int | None = None) -> tuple[int, int]:
        """(free, total) bytes of a GPU; of main memory without one."""
        device = self._device(device_id)
        if not self.available:
            return available_memory(), total_memory()
        return torch.cuda.mem_get_info(device)

    def set_device(self, device_id: int) -> None:
        """Use this GPU from now on; AMDDeviceError when there is none of that number."""
        device = self._device(device_id)
        if self.available:
            torch.cuda.set_device(device)

    @contextlib.contextmanager
    def device_context(self, device_id: int) -> Iterator[torch.device]:
        """Within the block, new tensors of torch's "cuda" go to this GPU."""
        device = self._device(device_id)
        with torch.cuda.device(device) if self.available else contextlib.nullcontext():
            yield device

    def cleanup(self) -> None:
        """Wait for the streams, and forget them, the events and the regions."""
        for stream in self._streams.values():
            stream.synchronize()
        self._streams.clear()
        self._events.clear()
        self._regions.clear()
