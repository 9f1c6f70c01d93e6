"""The command line: doctor, calc, inspect, config, export, import, replay, top."""

import click

from radixkv.cli.calc import calc
from radixkv.cli.configuration import config
from radixkv.cli.doctor import doctor
from radixkv.cli.inspect import inspect
from radixkv.cli.replay import replay_command
from radixkv.cli.top import top
from radixkv.cli.transplant import export_command, import_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="radixkv")
def main() -> None:
    """Keep the KV of prompts outside the GPU, and give it back token for token.

    \b
    radixkv doctor                              is this host ready, and what to do if not
    radixkv calc ./Llama-3.1-8B --size 100GiB   how many tokens a size holds
    radixkv inspect /var/lib/radixkv            what a disk tier holds
    radixkv config > radixkv.yaml               every setting with its default
    radixkv export /var/lib/radixkv kv.chunks   what it holds, for another machine
    radixkv import kv.chunks /var/lib/radixkv   and there
    radixkv replay conversation.jsonl           what a cache would have found in a trace
    radixkv top                                 what a running one keeps and moves
    """


main.add_command(calc)
main.add_command(config)
main.add_command(doctor)
main.add_command(inspect)
main.add_command(export_command)
main.add_command(import_command)
main.add_command(replay_command)
main.add_command(top)
