def test_the_broker_answers_and_makes_topics(kafka_broker):
    kafka_broker.tool("TopicCommand", "--create", "--topic", "first")
    assert "first" in kafka_broker.tool("TopicCommand", "--list").split()
