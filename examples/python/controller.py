# pip install -r examples/python/requirements.txt && python examples/python/controller.py 127.0.0.1:7501
"""A jobgate admission controller in Python: jobs of protected refs may not use an image tagged `latest`.

Needs nothing but the .proto file: its stubs are generated when the program starts. Prints the address it listens on.
Examine it with `jobgate conformance 127.0.0.1:7501`.
"""

import concurrent.futures
import pathlib
import signal
import sys
import tempfile
import threading

import grpc
import grpc_tools
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_tools import protoc

PROTO = "jobgate/admission/v1/admission.proto"
SOURCES = pathlib.Path(__file__).resolve().parents[2] / "proto" / "proto"


def generate():
    """The stubs of PROTO, as modules: messages and services."""
    out = tempfile.mkdtemp()
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{SOURCES}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO]
    if protoc.main(arguments) != 0:
        sys.exit(f"cannot compile {SOURCES / PROTO}")
    sys.path.insert(0, out)
    from jobgate.admission.v1 import admission_pb2, admission_pb2_grpc

    return admission_pb2, admission_pb2_grpc


messages, services = generate()


def decide(request):
    """The verdict, as the field of AdmitResponse that it sets."""
    if not request.HasField("job") or not request.HasField("project"):
        return {"failed": messages.Failed(message="the question has no job or no project")}
    job = request.job
    # Unset is unknown: here, what is not known to be unprotected counts as protected.
    if job.HasField("protected") and not job.protected:
        return {"admitted": messages.Admitted()}
    images = [job.image] if job.HasField("image") else []
    for image in images + [service.image for service in job.services]:
        if image.unresolved or image.tag == "latest":
            reason = f"{image.name!r} is not pinned, and {job.ref!r} is protected"
            return {"rejected": messages.Rejected(reason=reason, rule="pinned")}
    return {"admitted": messages.Admitted()}


class Controller(services.AdmissionControllerServicer):
    def Admit(self, request, context):
        return messages.AdmitResponse(id=request.id, policy_version="1", **decide(request))


def main():
    workers = concurrent.futures.ThreadPoolExecutor(max_workers=8)
    server = grpc.server(workers, options=[("grpc.max_receive_message_length", 8 << 20)])
    services.add_AdmissionControllerServicer_to_server(Controller(), server)
    healthy = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)

    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7501"
    port = server.add_insecure_port(address)
    server.start()
    print(f"{address.rpartition(':')[0]}:{port}", flush=True)

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    healthy.enter_graceful_shutdown()
    # No new questions; open ones get 30 seconds.
    server.stop(grace=30).wait()


if __name__ == "__main__":
    main()
