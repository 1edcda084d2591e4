"""Patch the boto3 client that an application already has: one line, and every node serves.

python examples/existing_client.py                                   starts a cluster here
python examples/existing_client.py --endpoint http://10.0.0.1:8000   uses a cluster of yours
"""

from __future__ import annotations

import argparse
import uuid

import boto3

from alternator_lb import install_alternator_transport, uninstall_alternator_transport
from alternator_lb.testing import LocalCluster


def main(endpoint: str, key: str, secret: str) -> None:
    client = boto3.client(  # as the application makes it
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
    nodes = install_alternator_transport(client, endpoint)  # the one line

    table = f"animals_{uuid.uuid4().hex[:8]}"
    client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.get_waiter("table_exists").wait(TableName=table)
    for number in range(30):
        client.put_item(TableName=table, Item={"name": {"S": f"dog {number}"}})
    client.delete_table(TableName=table)

    for node, counted in nodes.stats().items():
        print(f"{node}: {counted.calls} calls over {counted.connections} connection(s)")
    uninstall_alternator_transport(client)  # the client is what it was
    client.close()


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
