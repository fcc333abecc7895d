"""Tests of the folder `guest` run in each kernel by themselves, and tests here say what came of it. Guests
read this file too."""

collect_ignore = ["guest"]
