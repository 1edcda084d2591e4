"""The nodes of a cluster for requests and for plain urllib3, without boto3.

python examples/requests_and_urllib3.py                                   starts a cluster here
python examples/requests_and_urllib3.py --endpoint http://10.0.0.1:8000   uses a cluster of yours
"""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from alternator_lb import AlternatorAdapter, AlternatorNodes, AlternatorPoolManager
from alternator_lb.testing import LocalCluster


def main(endpoint: str, key: str, secret: str) -> None:
    url = urlsplit(endpoint)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    fake = f"{url.scheme}://dog.scylladb.com:{port}/"
    # Signed once for the fake domain: the signature is good on every node.
    call = AWSRequest("POST", fake, {"X-Amz-Target": "DynamoDB_20120810.ListTables"}, b"{}")
    SigV4Auth(Credentials(key, secret), "dynamodb", "us-east-1").add_auth(call)
    headers = dict(call.headers.items())

    with AlternatorNodes(url.scheme, port, endpoint) as nodes:
        with requests.Session() as session:
            session.mount(fake, AlternatorAdapter(nodes))
            print("requests:", session.get(fake).text.strip())
            print("requests:", session.post(fake, data=b"{}", headers=headers).json())
        with AlternatorPoolManager(nodes, maxsize=10) as http:
            answer = http.request("POST", fake, body=b"{}", headers=headers)
            print("urllib3: ", answer.status, answer.data.decode())


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
