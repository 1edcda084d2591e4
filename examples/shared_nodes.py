"""One AlternatorNodes for several clients: one poll for all, a rotation for each.

python examples/shared_nodes.py                                   starts a cluster here
python examples/shared_nodes.py --endpoint http://10.0.0.1:8000   uses a cluster of yours
"""

from __future__ import annotations

import argparse
import threading
from urllib.parse import urlsplit

import boto3

from alternator_lb import AlternatorNodes, install_alternator_transport
from alternator_lb.testing import LocalCluster


def main(endpoint: str, key: str, secret: str) -> None:
    account = {"aws_access_key_id": key, "aws_secret_access_key": secret}
    url = urlsplit(endpoint)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    with AlternatorNodes(url.scheme, port, endpoint) as nodes:
        clients = []
        for service in ("dynamodb", "dynamodbstreams"):
            client = boto3.client(
                service, endpoint_url=endpoint, region_name="us-east-1", **account
            )
            install_alternator_transport(client, nodes)
            clients.append(client)
        database, streams = clients
        for _ in range(10):
            database.list_tables()
            streams.list_streams()
        for client in clients:
            client.close()  # closes its connections; the nodes go on for the others
        polling = [each.name for each in threading.enumerate() if "alternator-lb" in each.name]
        print(f"{len(clients)} clients, polling threads: {polling}")
        for node, counted in nodes.stats().items():
            print(f"{node}: {counted.calls} calls over {counted.connections} connection(s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", metavar="URL", help="a node; a cluster starts without it")
    parser.add_argument("--key", default="alternator", help="the access key id")
    parser.add_argument("--secret", default="secret_pass", help="the secret key")
    given = parser.parse_args()
    if given.endpoint:
        main(given.endpoint, given.key, given.secret)
    else:
        with LocalCluster() as cluster:
            main(cluster.url, cluster.access_key, cluster.secret_key)
