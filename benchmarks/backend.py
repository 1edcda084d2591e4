"""The nodes to measure against: nginx on many loopback addresses, one process or one a node.

nginx, since the backend must be no bottleneck and no code of this project: it answers tens of
thousands of requests a second, and its access log tells from the server's side which connection
carried what.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Backend", "BackendError", "Target", "Traffic", "find_nginx"]

_PORTS = range(10_000, 32_000)  # below those that systems hand out to clients
_STARTS = 5
_SECONDS_TO_START = 10.0
_SECONDS_TO_STOP = 10.0
_QUERY_BYTES = 100_000

_ITEM = {
    "pk": {"S": "customer#0001234"},
    "sk": {"S": "order#2024-05-17#0042"},
    "total": {"N": "129.90"},
    "paid": {"BOOL": True},
    "lines": {"L": [{"S": "blue cup"}, {"S": "green plate"}]},
}


class BackendError(RuntimeError):
    """nginx is missing or does not start; the text says what to do."""


@dataclass(frozen=True)
class Target:
    """What a client must know of a backend; travels to other processes.

    ``connections`` is how many a client shall keep open to each node; None is its own default.
    """

    scheme: str
    port: int
    addresses: tuple[str, ...]
    ca_file: str | None = None
    connections: int | None = None

    @property
    def urls(self) -> list[str]:
        """The nodes' URLs."""
        return [f"{self.scheme}://{address}:{self.port}/" for address in self.addresses]


@dataclass
class Traffic:
    """What the server saw.

    A connection counts as opened for calls if it carried one: connections that carried only
    ``/localnodes`` are counted apart.
    """

    calls: int = 0
    connections: int = 0
    polls: int = 0
    poll_connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    resumed: int = 0
    calls_by_node: Counter[str] = field(default_factory=Counter)


def find_nginx() -> str:
    """Return the path of nginx.

    Raises:
        BackendError: it is not installed.
    """
    # Debian keeps it where the PATH of an ordinary user does not look.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BackendError(
            "the benchmarks need nginx, which is not installed: apt install nginx-light"
        )
    return found


class Backend:
    """A context manager that runs nginx as the nodes of a cluster, and ends it.

    Args:
        nodes: how many loopback addresses.
        tls: speak https (TLS 1.3 with session tickets).
        log: write down every request, for `traffic`. Off where the CPU of both cores matters.
        keep_alive: False closes the connection after every answer.
        processes: a process for each node, to be killed and frozen for real.

    Raises:
        BackendError: nginx is missing, or it did not start.
    """

    def __init__(
        self,
        nodes: int,
        *,
        tls: bool = False,
        log: bool = False,
        keep_alive: bool = True,
        processes: bool = False,
    ) -> None:
        self._count = nodes
        self._tls = tls
        self._log = log
        self._keep_alive = keep_alive
        self._separate = processes
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.target = Target("https" if tls else "http", 0, ())

    def __enter__(self) -> Backend:
        self._folder = Path(tempfile.mkdtemp(prefix="alternator-lb-benchmark-"))
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """End nginx. Can be repeated. After it, `traffic` is complete."""
        processes, self._processes = list(self._processes.values()), {}
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # a frozen one could not take note
        for process in processes:
            try:
                process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self, node: int) -> None:
        """End a node's process at once; the kernel cuts its connections."""
        process = self._processes.pop(node)
        process.kill()
        process.wait()

    def freeze(self, node: int) -> None:
        """Stop a node's process: connections are taken, nothing is answered."""
        self._processes[node].send_signal(signal.SIGSTOP)

    def start(self, node: int) -> None:
        """Start a node again that was killed.

        Raises:
            BackendError: it does not start; somebody else may have taken its port.
        """
        if not self._launch(node):
            raise BackendError(f"nginx does not start again: {self._complaint(node)}")

    def traffic(self) -> Traffic:
        """Return what was seen. Stops the backend: nginx writes a line after it has answered."""
        self.stop()
        seen = Traffic()
        methods: defaultdict[str, set[str]] = defaultdict(set)
        with open(self._folder / "access.log") as lines:
            for line in lines:
                node, connection, request, length, sent, reused = line.rstrip("\n").split("\t")
                method = request.split()[0]
                if method == "POST":
                    seen.calls += 1
                    seen.calls_by_node[node] += 1
                    seen.bytes_in += int(length)
                    seen.bytes_out += int(sent)
                    if "POST" not in methods[connection]:
                        seen.resumed += reused == "r"
                else:
                    seen.polls += 1
                methods[connection].add(method)
        for carried in methods.values():
            if "POST" in carried:
                seen.connections += 1
            else:
                seen.poll_connections += 1
        return seen

    def _start(self) -> None:
        said = ""
        for _ in range(_STARTS):  # a port that is free now can be taken a moment later
            self._choose_addresses()
            self._write_files()
            numbers = range(self._count) if self._separate else (0,)
            failed = next((number for number in numbers if not self._launch(number)), None)
            if failed is None:
                return
            self.stop()
            said = self._complaint(failed)
        raise BackendError(f"nginx does not start: {said}")

    def _launch(self, number: int) -> bool:
        """Start a process; return whether it listens."""
        with open(self._folder / f"error-{number}.log", "wb") as stderr:
            process = subprocess.Popen(
                [find_nginx(), "-p", str(self._folder), "-e", "stderr", "-c", f"{number}.conf"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C ends the run, and the run ends nginx
            )
        self._processes[number] = process
        # All listen before the first is served, so the last one speaks for all.
        return self._answers(process, self._served_by(number)[-1])

    def _complaint(self, number: int) -> str:
        said = (self._folder / f"error-{number}.log").read_text(errors="replace").strip()
        return said[-1000:] or "it says nothing"

    def _served_by(self, number: int) -> tuple[str, ...]:
        """The addresses of one process."""
        addresses = self.target.addresses
        return addresses[number : number + 1] if self._separate else addresses

    def _choose_addresses(self) -> None:
        second, third = random.randrange(64, 127), random.randrange(0, 128)
        addresses = tuple(
            f"127.{second}.{third + number // 250}.{number % 250 + 1}"
            for number in range(self._count)
        )
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((addresses[0], 0))
            except OSError as error:
                raise BackendError(
                    f"this system has no loopback address {addresses[0]} ({error}); "
                    "run the benchmarks on Linux, where all of 127.0.0.0/8 is there"
                ) from error
        ca_file = self._write_certificates(addresses) if self._tls else None
        self.target = Target(self.target.scheme, port, addresses, ca_file)

    def _write_certificates(self, addresses: tuple[str, ...]) -> str:
        import trustme  # here: only TLS needs it

        authority = trustme.CA()
        node = authority.issue_cert(*addresses)
        chain = b"".join(part.bytes() for part in node.cert_chain_pems)
        (self._folder / "node.pem").write_bytes(chain)
        key = self._folder / "node.key"
        key.touch(mode=0o600)
        node.private_key_pem.write_to_path(str(key))
        ca_file = self._folder / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        return str(ca_file)

    def _write_files(self) -> None:
        (self._folder / "localnodes.json").write_text(json.dumps(self.target.addresses))
        (self._folder / "query.json").write_text(_query_answer())
        for number in range(self._count) if self._separate else (0,):
            (self._folder / f"{number}.conf").write_text(self._configuration(number))

    def _configuration(self, number: int) -> str:
        listen = f"{self.target.port}{' ssl' if self._tls else ''}"
        if self._separate:
            listen += " reuseport"  # so that another can take over without a gap
        return _CONFIGURATION.format(
            folder=self._folder,
            number=number,
            files=4 * self._count + 4096,
            access="access_log access.log seen" if self._log else "access_log off",
            keep_alive="1h" if self._keep_alive else "0",
            listen="\n".join(f"listen {address}:{listen};" for address in self._served_by(number)),
            tls=_TLS if self._tls else "",
            item=json.dumps({"Item": _ITEM}),
        )

    def _answers(self, process: subprocess.Popen[bytes], address: str) -> bool:
        deadline = time.monotonic() + _SECONDS_TO_START
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection((address, self.target.port), timeout=1.0):
                    return True
            except OSError:
                time.sleep(0.01)  # nginx has no way to say that it is ready
        return False


def _query_answer() -> str:
    items: list[dict[str, Any]] = []
    size = 0
    while size < _QUERY_BYTES:
        item = {**_ITEM, "sk": {"S": f"order#{len(items):06}"}, "note": {"S": "x" * 700}}
        items.append(item)
        size += len(json.dumps(item))
    return json.dumps({"Items": items, "Count": len(items), "ScannedCount": len(items)})


# A process without a master: one pid to end, and no worker that could outlive it. It logs the
# request line, since $request_method turns into GET on the detour of a Query.
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/{number}.pid;
events {{ worker_connections {files}; multi_accept on; }}
http {{
    log_format seen "$server_addr\\t$pid-$connection\\t$request\\t$request_length\\t\
$bytes_sent\\t$ssl_session_reused";
    {access};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout {keep_alive};
    tcp_nodelay on;
    sendfile on;
    etag off;
    open_file_cache max=10 inactive=1h;
    default_type application/x-amz-json-1.0;
    types {{ }}
    server {{
        {listen}
        {tls}
        root {folder};
        location = / {{
            # nginx has no static file for a POST and no long text in "return": so by a detour.
            error_page 418 = /query.json;
            if ($http_x_amz_target ~ "\\.Query$") {{ return 418; }}
            if ($http_x_amz_target ~ "\\.PutItem$") {{ return 200 "{{}}"; }}
            return 200 '{item}';
        }}
        location = /query.json {{ internal; }}
        location = /localnodes {{
            default_type application/json;
            alias {folder}/localnodes.json;
        }}
    }}
}}
"""

_TLS = """
        ssl_certificate node.pem;
        ssl_certificate_key node.key;
        ssl_protocols TLSv1.3;
        ssl_session_tickets on;
"""
