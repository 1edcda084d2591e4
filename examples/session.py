"""A boto3.Session for a cluster: its clients, resources and tables are balanced from the start.

python examples/session.py                                   starts a cluster here
python examples/session.py --endpoint http://10.0.0.1:8000   uses a cluster of yours
"""

from __future__ import annotations

import argparse
import uuid
from urllib.parse import urlsplit

from alternator_lb import AlternatorNodes
from alternator_lb.testing import LocalCluster


def main(endpoint: str, key: str, secret: str) -> None:
    url = urlsplit(endpoint)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    with AlternatorNodes(url.scheme, port, endpoint) as nodes:
        # No DNS server has to know the name: it is signed, and sent as the Host.
        session = nodes.session("dog.scylladb.com", key, secret)
        database = session.resource("dynamodb")
        table = database.create_table(
            TableName=f"animals_{uuid.uuid4().hex[:8]}",
            KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        table.wait_until_exists()
        with table.batch_writer() as batch:
            for number in range(100):
                batch.put_item(Item={"name": f"dog {number}", "legs": 4})
        print(f"{len(table.scan()['Items'])} items came back from {len(nodes.live)} nodes")
        table.delete()
        print(nodes)


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
