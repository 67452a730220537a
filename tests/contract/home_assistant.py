#!/usr/bin/env python3
"""Has Home Assistant's own code read a discovery message and the states that it points to.

    home_assistant.py MESSAGES      a directory of {"topic", "payload"} files, one of them the discovery's

Wants the package `homeassistant` (2024.11 or later, and the Python that it wants), which is large and has many
dependencies: `tests/adapters.rs` runs it where VEDETTE_HOME_ASSISTANT names a Python that has it.
"""
import asyncio
import importlib
import json
import pathlib
import sys
import tempfile

from homeassistant.components.mqtt import discovery, schemas
from homeassistant.core import HomeAssistant
from homeassistant.helpers import frame
from homeassistant.helpers.template import Template


async def main(directory):
    hass = HomeAssistant(tempfile.mkdtemp())
    frame.async_setup(hass)
    messages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(pathlib.Path(directory).glob("*.json"))]
    states = {m["topic"]: json.dumps(m["payload"]) for m in messages}
    (topic,) = [topic for topic in states if topic.startswith("homeassistant/")]
    matched = discovery.TOPIC_MATCHER.match(topic.removeprefix("homeassistant/"))
    assert matched and matched["component"] == "device", topic
    config = discovery.MQTTDiscoveryPayload(json.loads(states[topic]))
    discovery._replace_all_abbreviations(config)
    valid = schemas.DEVICE_DISCOVERY_SCHEMA(config)
    def rendered(template, state_topic):
        value = Template(template, hass)
        return value.async_render_with_possible_json_value(states[state_topic], "does not render")

    (availability,) = valid["availability"]
    print("availability", rendered(availability["value_template"].template, availability["topic"]))
    # As Home Assistant does: each component with what they share, by its platform's own schema.
    shared = {key: config[key] for key in ("device", "origin", "availability", "availability_mode", "qos") if key in config}
    for name, component in config["components"].items():
        component = dict(component)
        platform = importlib.import_module("homeassistant.components.mqtt." + component.pop("platform"))
        entity = platform.DISCOVERY_SCHEMA({**shared, **component, "platform": "mqtt"})
        print(name, rendered(entity["value_template"].template, entity["state_topic"]))
    await hass.async_stop(force=True)


asyncio.run(main(sys.argv[1]))
