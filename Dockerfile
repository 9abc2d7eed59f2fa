# The newest Python that all of the lock file has wheels for: nothing is compiled here.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    APP_HOST=0.0.0.0 \
    APP_PORT=8080 \
    APP_DATA_DIR=/var/lib/aiopypay

RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin aiopypay \
    && install --directory --mode=0700 --owner=aiopypay --group=aiopypay /var/lib/aiopypay

WORKDIR /srv/aiopypay

# Before the code, so that a change of code does not install them again.
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt

COPY migrations migrations
COPY aiopypay aiopypay
RUN python -m compileall -q aiopypay

USER aiopypay
VOLUME /var/lib/aiopypay
EXPOSE 8080

# Longer than the 30 s that a start waits for its database.
HEALTHCHECK --interval=10s --timeout=3s --start-period=45s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['APP_PORT']), timeout=2); c.request('GET', '/health'); assert c.getresponse().status == 200"]

# An exec form: SIGTERM reaches the service itself, which stops gracefully.
CMD ["python", "-m", "aiopypay", "serve"]
