"""Compile for TPUs that are not there: does a program fit, and what bounds its speed?"""
